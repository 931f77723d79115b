// Matrices packed in panels, and their products with rows of activations.

#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <type_traits>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "team.h"
#include "vectors.h"

namespace {

enum Kind { F32 = 0, BF16 = 1, INT8 = 2 };

// Memory of one model's weights, in few large pieces: small pages end a stream every 4 KB.
class Arena {
 public:
  ~Arena() {
    for (void *block : blocks_) std::free(block);
  }
  Arena() = default;
  Arena(const Arena &) = delete;
  void *take(size_t bytes) {
    bytes = (bytes + 63) / 64 * 64;
    if (bytes > left_) {
      left_ = std::max(BLOCK, (bytes + HUGE - 1) / HUGE * HUGE);
      at_ = (char *)std::aligned_alloc(HUGE, left_);
      if (!at_) throw std::bad_alloc();
      blocks_.push_back(at_);
#if defined(__linux__)
      madvise(at_, left_, MADV_HUGEPAGE);
#endif
    }
    void *taken = at_;
    at_ += bytes;
    left_ -= bytes;
    return taken;
  }

 private:
  static constexpr size_t HUGE = size_t(1) << 21, BLOCK = size_t(1) << 24;
  std::vector<void *> blocks_;
  char *at_ = nullptr;
  size_t left_ = 0;
};

struct Matrix {
  int outputs = 0, inputs = 0, panels = 0, steps = 0;
  void *data = nullptr;
  float *scales = nullptr, *bias = nullptr;  // by padded output; either may be absent
};

// Where a panel lies: T::GROUP of them side by side, step by step, so that what is read together is one stream.
template <class T> struct Panel {
  typename T::W *data;
  size_t stride;  // elements between two steps
  Panel() = default;
  Panel(const Matrix &m, int panel) {
    const int first = panel / T::GROUP * T::GROUP;
    data = (typename T::W *)m.data + (size_t(first) * m.steps + panel - first) * T::WIDTH;
    stride = std::min(T::GROUP, m.panels - first) * T::WIDTH;
  }
  typename T::W *at(size_t step) const { return data + step * stride; }
};

// Rows of activations as they are.
template <class A> struct Rows {
  const A *data;
  size_t stride;
  const A *at(int row) const { return data + size_t(row) * stride; }
};

// What a product reads: weights W in vectors of WIDTH elements for STEP values of k; activations A. BLOCKS says
// whether these are quantized first.
struct AsF32 {
  typedef float W;
  typedef float A;
  typedef v16 V;
  typedef float S;
  static constexpr int STEP = 1, WIDTH = 16, GROUP = 2;
  static constexpr bool BLOCKS = false;
  static V weights(const W *w) { return load<v16>(w); }
  static S value(const A *x) { return *x; }
  static v16 add(v16 acc, V w, S x) { return fused(w, splat(x), acc); }
};
#if defined(__AVX512VNNI__)
// int8 by int8, summed in int32: exact, so only the rounding of activations is added. Weights are kept with 128
// added, since the instruction multiplies unsigned by signed; `Quantized` takes it off again.
struct AsInt8 {
  typedef uint8_t W;
  typedef float A;
  static constexpr int STEP = 4, WIDTH = 64, GROUP = 4;
  static constexpr bool BLOCKS = true;
  static W kept(int w) { return W(w + 128); }
};
#else
struct AsInt8 {
  typedef int8_t W;
  typedef float A;
  typedef v16 V;
  typedef float S;
  static constexpr int STEP = 1, WIDTH = 16, GROUP = 2;
  static constexpr bool BLOCKS = false;
  static V weights(const W *w) { return vector(w); }
  static S value(const A *x) { return *x; }
  static v16 add(v16 acc, V w, S x) { return fused(w, splat(x), acc); }
  static W kept(int w) { return W(w); }
};
#endif
#if defined(__AVX512BF16__)
struct AsBF16 {
  typedef uint16_t W;
  typedef uint16_t A;
  typedef __m512i V;
  typedef int S;
  static constexpr int STEP = 2, WIDTH = 32, GROUP = 2;
  static constexpr bool BLOCKS = false;
  static V weights(const W *w) { return _mm512_loadu_si512(w); }
  static S value(const A *x) {
    S pair;
    std::memcpy(&pair, x, 4);
    return pair;
  }
  static v16 add(v16 acc, V w, S x) {
    return (v16)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)_mm512_set1_epi32(x));
  }
};
#else
struct AsBF16 {
  typedef uint16_t W;
  typedef float A;
  typedef u16 V;
  struct S { float first, second; };
  static constexpr int STEP = 2, WIDTH = 32, GROUP = 2;
  static constexpr bool BLOCKS = false;
  static V weights(const W *w) { return load<u16>(w); }
  static S value(const A *x) { return {x[0], x[1]}; }
  static v16 add(v16 acc, V w, S x) {
    acc = fused((v16)(w << 16), splat(x.first), acc);
    return fused((v16)(w & 0xffff0000u), splat(x.second), acc);
  }
};
#endif

inline void put(float *to, v16 x) { store(to, x); }
inline void put(uint16_t *to, v16 x) { store(to, to_bf16(x)); }

// Rows of activations in int8, a scale for every BLOCK of them.
struct Quantized {
  static constexpr int BLOCK = 32;
  int8_t *data;
  float *scales;
  int32_t *offsets;  // of each block: -128 times its sum, for the 128 added to weights
  int blocks;
  static size_t bytes(size_t rows, int inputs) { return rows * ((inputs + BLOCK - 1) / BLOCK) * (BLOCK + 8); }
  Quantized(void *room, size_t rows, int inputs) : blocks((inputs + BLOCK - 1) / BLOCK) {
    scales = (float *)room;
    offsets = (int32_t *)(scales + rows * blocks);
    data = (int8_t *)(offsets + rows * blocks);
  }
  size_t at(int row, int block) const { return size_t(row) * blocks + block; }
  // Takes `inputs` numbers. One that is no number makes its block so.
  void take(int row, const float *from, int inputs) const {
    for (int b = 0; b < blocks; b++) {
      v16 low{}, high{};
      if (const int left = inputs - b * BLOCK; left >= BLOCK) {
        low = load<v16>(from + b * BLOCK);
        high = load<v16>(from + b * BLOCK + LANES);
      } else {
        for (int i = 0; i < left; i++) (i < LANES ? low[i] : high[i - LANES]) = from[b * BLOCK + i];
      }
      const v16 size = low < 0 ? -low : low, other = high < 0 ? -high : high;
      const float most = largest(size > other ? size : other);
      const float inverse = most > 0 ? 127.0f / most : 0.0f;
      const i16 number = (low == low) & (high == high), first = nearest(low * inverse) & number,
                second = nearest(high * inverse) & number;
      store(data + at(row, b) * BLOCK, __builtin_convertvector(first, b16));
      store(data + at(row, b) * BLOCK + LANES, __builtin_convertvector(second, b16));
      const i16 both = first + second;
      int32_t sum = 0;
      bool sound = true;
      for (int i = 0; i < LANES; i++) sum += both[i], sound &= number[i] != 0;
      scales[at(row, b)] = sound ? most / 127.0f : NAN;
      offsets[at(row, b)] = -128 * sum;
    }
  }
  static i16 nearest(v16 x) { return __builtin_convertvector((x + 12582912.0f) - 12582912.0f, i16); }
};

// Sums get their scale and bias, and go out.
template <int R, int P, class Out> inline void give(const Matrix &m, int panel, int row, v16 (&acc)[R][P], const Out &out) {
  for (int p = 0; p < P; p++) {
    if (!m.scales && !m.bias) continue;
    v16 scale = m.scales ? load<v16>(m.scales + (panel + p) * LANES) : splat(1.0f);
    v16 bias = m.bias ? load<v16>(m.bias + (panel + p) * LANES) : v16{};
    for (int r = 0; r < R; r++) acc[r][p] = fused(acc[r][p], scale, bias);
  }
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p += Out::PAIRS ? 2 : 1) out.one(row + r, panel + p, acc[r] + p);
}

// R rows times P panels.
template <class T, int R, int P, class Out>
inline void tile(const Matrix &m, int panel, const Rows<typename T::A> &x, int row, const Out &out) {
  constexpr int S = P < T::GROUP ? P : T::GROUP;
  Panel<T> at[P / S];
  for (int i = 0; i < P / S; i++) at[i] = Panel<T>(m, panel + i * S);
  const typename T::A *rows = x.at(row);
  v16 acc[R][P];
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++) acc[r][p] = v16{};
  for (int k = 0; k < m.steps; k++) {
    typename T::V weights[P];
    for (int p = 0; p < P; p++) weights[p] = T::weights(at[p / S].at(k) + p % S * T::WIDTH);
    for (int r = 0; r < R; r++) {
      typename T::S value = T::value(rows + size_t(r) * x.stride + k * T::STEP);
      for (int p = 0; p < P; p++) acc[r][p] = T::add(acc[r][p], weights[p], value);
    }
  }
  give(m, panel, row, acc, out);
}
#if defined(__AVX512VNNI__)
template <class T, int R, int P, class Out>
inline void tile(const Matrix &m, int panel, const Quantized &x, int row, const Out &out) {
  constexpr int STEPS = Quantized::BLOCK / T::STEP;
  static_assert(P <= T::GROUP, "one stream");
  const Panel<T> at(m, panel);
  v16 acc[R][P];
  for (int r = 0; r < R; r++)
    for (int p = 0; p < P; p++) acc[r][p] = v16{};
  for (int b = 0; b < x.blocks; b++) {
    __m512i sums[R][P];
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++) sums[r][p] = _mm512_set1_epi32(x.offsets[x.at(row + r, b)]);
    for (int k = 0; k < STEPS; k++) {
      __m512i weights[P];
      for (int p = 0; p < P; p++)
        weights[p] = _mm512_loadu_si512(at.at(size_t(b) * STEPS + k) + p * T::WIDTH);
      for (int r = 0; r < R; r++) {
        int32_t value;
        std::memcpy(&value, x.data + x.at(row + r, b) * Quantized::BLOCK + k * T::STEP, 4);
        for (int p = 0; p < P; p++) sums[r][p] = _mm512_dpbusd_epi32(sums[r][p], weights[p], _mm512_set1_epi32(value));
      }
    }
    for (int r = 0; r < R; r++)
      for (int p = 0; p < P; p++)
        acc[r][p] = fused(__builtin_convertvector((i16)sums[r][p], v16), splat(x.scales[x.at(row + r, b)]), acc[r][p]);
  }
  give(m, panel, row, acc, out);
}
#endif

#if defined(__AVX512F__)
constexpr int TALL = 8;
#else
constexpr int TALL = 4;
#endif

// P panels for all rows. Quantized rows have twice the sums in registers.
template <class T, int P, class X, class Out>
void strip(const Matrix &m, int panel, const X &x, int rows, const Out &out) {
  int row = 0;
  if constexpr (P <= (T::BLOCKS ? 1 : 2))
    for (; row + TALL <= rows; row += TALL) tile<T, TALL, P>(m, panel, x, row, out);
  if constexpr (P <= (T::BLOCKS ? 2 : 4))
    for (; row + 4 <= rows; row += 4) tile<T, 4, P>(m, panel, x, row, out);
  for (; row + 2 <= rows; row += 2) tile<T, 2, P>(m, panel, x, row, out);
  for (; row < rows; row++) tile<T, 1, P>(m, panel, x, row, out);
}

// What becomes of the sums.
struct Write {
  static constexpr bool PAIRS = false;
  float *to;
  size_t stride;
  void one(int row, int panel, v16 *acc) const { put(to + row * stride + panel * LANES, acc[0]); }
};
struct Add {
  static constexpr bool PAIRS = false;
  float *to;
  size_t stride;
  void one(int row, int panel, v16 *acc) const {
    float *at = to + row * stride + panel * LANES;
    put(at, load<v16>(at) + acc[0]);
  }
};
template <class A> struct SwiGLU {  // panels alternate: 16 gates, 16 ups
  static constexpr bool PAIRS = true;
  A *to;
  size_t stride;
  void one(int row, int panel, v16 *acc) const {
    v16 gate = acc[0], one = splat(1.0f);
    put(to + row * stride + panel / 2 * LANES, gate / (one + vexp(-gate)) * acc[1]);
  }
};


struct Source {
  const void *data;
  bool half;
  int outputs, inputs;
  bool pairs;  // the first half of the rows are gates, the second ups: panels alternate
  int row(int panel, int lane) const {  // -1 past the end
    if (!pairs) return panel * LANES + lane < outputs ? panel * LANES + lane : -1;
    int at = panel / 2 * LANES + lane;
    return at < outputs / 2 ? at + panel % 2 * (outputs / 2) : -1;
  }
  float at(int row, int k) const {
    if (row < 0 || k >= inputs) return 0.0f;
    size_t i = size_t(row) * inputs + k;
    return half ? from_bf16(((const uint16_t *)data)[i]) : ((const float *)data)[i];
  }
};

template <class T> void pack_panel(Matrix &m, const Source &from, int panel) {
  const Panel<T> to(m, panel);
  for (int lane = 0; lane < LANES; lane++) {
    int row = from.row(panel, lane);
    float scale = 1.0f;
    if (m.scales) {
      float most = 0.0f;
      for (int k = 0; k < from.inputs; k++) most = std::max(most, std::fabs(from.at(row, k)));
      scale = most > 0 ? most / 127.0f : 1.0f;
      m.scales[panel * LANES + lane] = scale;
    }
    for (int k = 0; k < m.steps * T::STEP; k++) {
      float value = from.at(row, k);
      auto &place = to.at(k / T::STEP)[lane * T::STEP + k % T::STEP];
      if constexpr (std::is_same<T, AsInt8>::value)
        place = T::kept(int(std::lrint(std::min(127.0f, std::max(-127.0f, value / scale)))));
      else
        keep(&place, value);
    }
  }
}

template <class T> void pack(Team &team, Arena &arena, Matrix &m, const Source &from) {
  m.outputs = from.outputs;
  m.inputs = from.inputs;
  m.panels = from.pairs ? 2 * (padded(from.outputs / 2) / LANES) : padded(from.outputs) / LANES;
  const int whole = T::BLOCKS ? Quantized::BLOCK : T::STEP;
  m.steps = (from.inputs + whole - 1) / whole * whole / T::STEP;
  if (!m.data) m.data = arena.take(size_t(m.panels) * m.steps * T::WIDTH * sizeof(typename T::W));
  if (std::is_same<T, AsInt8>::value && !m.scales)
    m.scales = (float *)arena.take(size_t(m.panels) * LANES * sizeof(float));
  std::atomic<int> next{0};
  team.run([&](int) {
    for (int panel; (panel = next.fetch_add(1)) < m.panels;) pack_panel<T>(m, from, panel);
  });
}

}  // namespace
