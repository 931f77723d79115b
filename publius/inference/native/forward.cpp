// One forward pass over a flat list of tokens, on CPU: decoding rows, chunks of prompts and drafts alike.
//
// Built by build.py with the machine's own compiler, called through ctypes by model.py. A call computes every
// layer for every token, writes keys and values into pages of 16 tokens, and returns logits of the tokens
// asked for.
//
// Batch invariance: a token's numbers do not depend, to the bit, on what it is computed beside. Every sum has
// one order: products over k ascending in one accumulator, whatever the tile; attention over pages ascending,
// folded every CHUNK keys at absolute positions. So chunked prefill, batching, reuse of a prefix, preemption
// and speculation cannot change a text.
//
// Weights are packed once: panels of 16 outputs, within a panel by k, so that one stream is read from start to
// end and lanes are outputs (no horizontal sums). Activations are fp32 between products; for bf16 weights
// products read bf16 activations where the CPU multiplies in bf16, else fp32 ones.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "products.h"
#include "sample.h"
#include "team.h"
#include "vectors.h"

namespace {

constexpr int PAGE = 16;    // tokens in a page: one vector of scores
constexpr int CHUNK = 512;  // keys between two folds of the softmax
constexpr int QUERIES = 32; // queries (tokens x heads of a group) that read a page together

struct Layer {
  Matrix qkv, o, gate_up, down;
  float *before_attention = nullptr, *before_mlp = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  int window = 0, rotary = 1;
  ~Layer() {
    for (float *p : {before_attention, before_mlp, q_norm, k_norm}) std::free(p);
  }
};

extern "C" struct Shape {
  int32_t layers, width, heads, kv_heads, head_dim, inner, vocab, kind, cache_bf16, threads;
  float eps;
};

struct Model {
  Shape c;
  std::vector<Layer> layers;
  Matrix head;
  float *last_norm = nullptr;
  const float *cosine = nullptr, *sine = nullptr, *embed32 = nullptr;
  const uint16_t *embed16 = nullptr;
  std::unique_ptr<Team> team;
  std::vector<char> scratch;
  explicit Model(const Shape &c) : c(c), layers(c.layers), team(new Team(c.threads)) {}
  ~Model() { std::free(last_norm); }
};

extern "C" struct Call {
  int32_t rows, sequences, outputs, table_width;
  const int32_t *tokens, *positions;     // [rows]
  const int32_t *starts;                 // [sequences + 1]: rows of each, at rising positions
  const int32_t *tables;                 // [sequences, table_width]: pages by position
  const int32_t *wanted;                 // [outputs]: rows whose logits are asked for
  void *keys, *values;                   // [layers, pages, kv_heads, head_dim, PAGE], [.., PAGE, padded head_dim]
  int64_t pages;
  float *logits;                         // [outputs, padded vocab]
};

struct Item {
  int sequence, head, first, count;  // `count` query tokens from row `first`
};

// One forward pass; every member of the team runs `work`.
template <class T, class C> class Pass {
 public:
  typedef typename T::A A;

  Pass(Model &m, const Call &call) : m(m), c(m.c), call(call) {
    wide = padded(c.width);
    qkv_wide = padded((c.heads + 2 * c.kv_heads) * c.head_dim);
    inner_wide = padded(c.inner);
    act_wide = std::max(wide, size_t(padded(c.heads * c.head_dim)));
    deep = padded(c.head_dim);
    group = c.heads / c.kv_heads;
    tokens_each = std::max(1, QUERIES / group);
    for (int s = 0; s < call.sequences; s++)
      for (int row = call.starts[s]; row < call.starts[s + 1]; row += tokens_each)
        for (int h = 0; h < c.kv_heads; h++)
          items.push_back({s, h, row, std::min(tokens_each, call.starts[s + 1] - row)});
    // The last queries of a long prompt see most keys: begin with them, so that members end together.
    std::stable_sort(items.begin(), items.end(), [&](const Item &a, const Item &b) {
      return call.positions[a.first] > call.positions[b.first];
    });
    size_t rows = std::max(call.rows, call.outputs), queries = size_t(tokens_each) * group;
    const size_t widened = sizeof(C) == 2 ? size_t(CHUNK) * (c.head_dim + deep) : 0;
    each = ((queries * (c.head_dim + CHUNK + deep + 2) + LANES + widened) * sizeof(float) + 63) / 64 * 64;
    size_t sizes[] = {rows * wide * sizeof(float), rows * qkv_wide * sizeof(float), rows * act_wide * sizeof(A),
                      rows * inner_wide * sizeof(A), each * c.threads};
    size_t all = 64;
    for (size_t &size : sizes) all += size = (size + 63) / 64 * 64;
    if (m.scratch.size() < all) m.scratch = std::vector<char>(all);
    char *at = (char *)((uintptr_t(m.scratch.data()) + 63) / 64 * 64);
    char *places[5];
    for (int i = 0; i < 5; at += sizes[i++]) places[i] = at;
    x = (float *)places[0];
    qkv = (float *)places[1];
    act = (A *)places[2];
    middle = (A *)places[3];
    own = places[4];
    counters = std::vector<std::atomic<int>>(size_t(c.layers) * 8 + 3);
  }

  void work(int member) {
    float *mine = (float *)(own + each * member);
    int phase = 0;
    shared(phase++, call.rows, 16, [&](int row) { embed(row); });
    m.team->barrier();
    for (int l = 0; l < c.layers; l++) {
      const Layer &layer = m.layers[l];
      shared(phase++, call.rows, 4, [&](int row) { norm(row, layer.before_attention, row); });
      m.team->barrier();
      product(phase++, layer.qkv, act, act_wide, call.rows, Write{qkv, qkv_wide});
      m.team->barrier();
      shared(phase++, call.rows * c.kv_heads, 4, [&](int i) { turn(l, i / c.kv_heads, i % c.kv_heads); });
      m.team->barrier();
      shared(phase++, int(items.size()), 1, [&](int i) { attend(l, items[i], mine); });
      m.team->barrier();
      product(phase++, layer.o, act, act_wide, call.rows, Add{x, wide});
      m.team->barrier();
      shared(phase++, call.rows, 4, [&](int row) { norm(row, layer.before_mlp, row); });
      m.team->barrier();
      product(phase++, layer.gate_up, act, act_wide, call.rows, SwiGLU<A>{middle, inner_wide});
      m.team->barrier();
      product(phase++, layer.down, middle, inner_wide, call.rows, Add{x, wide});
      m.team->barrier();
    }
    shared(phase++, call.outputs, 4, [&](int i) { norm(call.wanted[i], m.last_norm, i); });
    m.team->barrier();
    product(phase++, m.head, act, act_wide, call.outputs, Write{call.logits, size_t(padded(c.vocab))});
  }

 private:
  // Members take `grain` of `count` pieces at a time, until none is left.
  template <class F> void shared(int phase, int count, int grain, const F &piece) {
    std::atomic<int> &next = counters[phase];
    for (;;) {
      int from = next.fetch_add(grain);
      if (from >= count) return;
      for (int i = from; i < std::min(count, from + grain); i++) piece(i);
    }
  }

  template <class Out>
  void product(int phase, const Matrix &w, const A *from, size_t stride, int rows, const Out &out) {
    int side = rows >= TALL ? 2 : 4, groups = (w.panels + side - 1) / side;
    shared(phase, groups, std::max(1, groups / (m.team->size * 8)), [&](int g) {
      int panel = g * side, end = std::min(panel + side, w.panels);
      for (; panel + 4 <= end; panel += 4) strip<T, 4>(w, panel, from, stride, rows, out);
      for (; panel + 2 <= end; panel += 2) strip<T, 2>(w, panel, from, stride, rows, out);
      if constexpr (!Out::PAIRS)
        for (; panel < end; panel++) strip<T, 1>(w, panel, from, stride, rows, out);
    });
  }

  void embed(int row) {
    float *to = x + row * wide;
    size_t from = size_t(call.tokens[row]) * c.width;
    for (int i = 0; i < c.width; i++)
      to[i] = m.embed16 ? from_bf16(m.embed16[from + i]) : m.embed32[from + i];
    std::fill(to + c.width, to + wide, 0.0f);
  }

  // RMSNorm of residual row `row` into activation row `to`.
  void norm(int row, const float *weight, int to) {
    const float *from = x + row * wide;
    v16 squares{};
    for (size_t i = 0; i < wide; i += LANES) squares += load<v16>(from + i) * load<v16>(from + i);
    v16 scale = splat(1.0f / std::sqrt(sum(squares) / c.width + c.eps));
    for (size_t i = 0; i < wide; i += LANES)
      put(act + to * act_wide + i, load<v16>(from + i) * scale * load<v16>(weight + i));
  }

  void norm_head(float *head, const float *weight) {
    float squares = 0;
    for (int i = 0; i < c.head_dim; i++) squares += head[i] * head[i];
    float scale = 1.0f / std::sqrt(squares / c.head_dim + c.eps);
    for (int i = 0; i < c.head_dim; i++) head[i] *= scale * weight[i];
  }

  void rotate(float *head, int position) {
    int half = c.head_dim / 2;
    const float *cosine = m.cosine + size_t(position) * half, *sine = m.sine + size_t(position) * half;
    for (int i = 0; i < half; i++) {
      float first = head[i], second = head[i + half];
      head[i] = first * cosine[i] - second * sine[i];
      head[i + half] = second * cosine[i] + first * sine[i];
    }
  }

  // Pages of key head `h` in layer `l`.
  C *keys(int l, int page, int h) const {
    return (C *)call.keys + ((size_t(l) * call.pages + page) * c.kv_heads + h) * c.head_dim * PAGE;
  }
  C *values(int l, int page, int h) const {
    return (C *)call.values + ((size_t(l) * call.pages + page) * c.kv_heads + h) * deep * PAGE;
  }

  // Norm and rotate one key head and its queries; store key and value.
  void turn(int l, int row, int h) {
    const Layer &layer = m.layers[l];
    int position = call.positions[row], d = c.head_dim;
    float *line = qkv + row * qkv_wide, *key = line + (c.heads + h) * d;
    const float *value = line + (c.heads + c.kv_heads + h) * d, scale = 1.0f / std::sqrt(float(d));
    for (int g = 0; g < group; g++) {
      float *query = line + (h * group + g) * d;
      if (layer.q_norm) norm_head(query, layer.q_norm);
      if (layer.rotary) rotate(query, position);
      for (int i = 0; i < d; i++) query[i] *= scale;
    }
    if (layer.k_norm) norm_head(key, layer.k_norm);
    if (layer.rotary) rotate(key, position);
    int page = table_of(row)[position / PAGE], place = position % PAGE;
    C *k = keys(l, page, h) + place, *v = values(l, page, h) + size_t(place) * deep;
    for (int i = 0; i < d; i++) keep(k + size_t(i) * PAGE, key[i]);
    for (int i = 0; i < d; i++) keep(v + i, value[i]);
    for (int i = d; i < int(deep); i++) keep(v + i, 0.0f);
  }

  const int32_t *table_of(int row) const {
    int s = int(std::upper_bound(call.starts, call.starts + call.sequences, row) - call.starts) - 1;
    return call.tables + size_t(s) * call.table_width;
  }

  // Scores of M queries against N pages.
  template <int M, int N, class K> void scores(const float *query, K *const *pages, float *to) const {
    v16 acc[M][N];
    for (int q = 0; q < M; q++)
      for (int n = 0; n < N; n++) acc[q][n] = v16{};
    for (int i = 0; i < c.head_dim; i++) {
      v16 key[N];
      for (int n = 0; n < N; n++) key[n] = vector(pages[n] + i * PAGE);
      for (int q = 0; q < M; q++)
        for (int n = 0; n < N; n++) acc[q][n] += key[n] * query[q * c.head_dim + i];
    }
    for (int q = 0; q < M; q++)
      for (int n = 0; n < N; n++) store(to + q * CHUNK + n * PAGE, acc[q][n]);
  }
  template <int M, class K> void score_rows(const float *query, K *const *pages, int count, float *to) const {
    constexpr int N = M >= 4 ? 2 : 4;
    int n = 0;
    for (; n + N <= count; n += N) scores<M, N>(query, pages + n, to + n * PAGE);
    for (; n < count; n++) scores<M, 1>(query, pages + n, to + n * PAGE);
  }

  // acc[M][N vectors] += weights[M][keys] x values.
  template <int M, int N, class K>
  void weigh(const float *weights, K *const *pages, int count, int column, float *out) const {
    v16 acc[M][N];
    for (int q = 0; q < M; q++)
      for (int n = 0; n < N; n++) acc[q][n] = load<v16>(out + q * deep + column + n * LANES);
    for (int key = 0; key < count; key++) {
      K *line = pages[key / PAGE] + size_t(key % PAGE) * deep + column;
      v16 value[N];
      for (int n = 0; n < N; n++) value[n] = vector(line + n * LANES);
      for (int q = 0; q < M; q++)
        for (int n = 0; n < N; n++) acc[q][n] += value[n] * weights[q * CHUNK + key];
    }
    for (int q = 0; q < M; q++)
      for (int n = 0; n < N; n++) store(out + q * deep + column + n * LANES, acc[q][n]);
  }
  template <int M, class K>
  void weigh_rows(const float *weights, K *const *pages, int count, float *out) const {
    int column = 0, all = int(deep);
    for (; column + 4 * LANES <= all; column += 4 * LANES) weigh<M, 4>(weights, pages, count, column, out);
    for (; column + 2 * LANES <= all; column += 2 * LANES) weigh<M, 2>(weights, pages, count, column, out);
    for (; column < all; column += LANES) weigh<M, 1>(weights, pages, count, column, out);
  }

  struct Span {
    int from, count, pages, queries, window;  // keys from `from` on
  };

  // One chunk of keys for all queries of an item.
  template <class K>
  void chunk(const Item &item, const Span &span, K *const *k, K *const *v, const float *query, float *weights,
             float *out, float *most, float *total) const {
    const int d = c.head_dim, queries = span.queries;
    int q = 0;
    for (; q + 8 <= queries; q += 8) score_rows<8>(query + q * d, k, span.pages, weights + q * CHUNK);
    for (; q + 4 <= queries; q += 4) score_rows<4>(query + q * d, k, span.pages, weights + q * CHUNK);
    for (; q < queries; q++) score_rows<1>(query + q * d, k, span.pages, weights + q * CHUNK);
    for (q = 0; q < queries; q++) {
      const int last = call.positions[item.first + q / group], first = span.window ? last - span.window + 1 : 0;
      fold(weights + q * CHUNK, span.from, span.pages, first, last, most[q], total[q], out + q * deep);
    }
    q = 0;
    if (deep <= 2 * LANES)
      for (; q + 8 <= queries; q += 8) weigh_rows<8>(weights + q * CHUNK, v, span.count, out + q * deep);
    for (; q + 4 <= queries; q += 4) weigh_rows<4>(weights + q * CHUNK, v, span.count, out + q * deep);
    for (; q < queries; q++) weigh_rows<1>(weights + q * CHUNK, v, span.count, out + q * deep);
  }

  // Softmax over the keys a query may see, CHUNK keys at a time (Milakov and Gimelshein 2018, 1805.02867).
  void attend(int l, const Item &item, float *mine) {
    const int window = m.layers[l].window, d = c.head_dim, queries = item.count * group;
    float *query = mine, *weights = query + size_t(queries) * d, *out = weights + size_t(queries) * CHUNK;
    float *most = out + queries * deep, *total = most + queries, *widened = total + padded(queries);
    for (int t = 0; t < item.count; t++)
      std::memcpy(query + size_t(t) * group * d, qkv + (item.first + t) * qkv_wide + item.head * group * d,
                  size_t(group) * d * sizeof(float));
    std::fill(out, out + queries * deep, 0.0f);
    std::fill(most, most + queries, -INFINITY);
    std::fill(total, total + queries, 0.0f);
    const int32_t *table = call.tables + size_t(item.sequence) * call.table_width;
    const int low = call.positions[item.first], high = call.positions[item.first + item.count - 1];
    const int seen = window ? std::max(0, low - window + 1) : 0;  // the first key that any query sees
    for (int begin = seen / CHUNK * CHUNK; begin <= high; begin += CHUNK) {
      const int from = std::max(begin, seen / PAGE * PAGE), end = std::min(begin + CHUNK, high + 1);
      const int pages = (end - from + PAGE - 1) / PAGE;
      C *k[CHUNK / PAGE], *v[CHUNK / PAGE];
      for (int i = 0; i < pages; i++) {
        k[i] = keys(l, table[from / PAGE + i], item.head);
        v[i] = values(l, table[from / PAGE + i], item.head);
      }
      const Span span{from, end - from, pages, queries, window};
      if constexpr (sizeof(C) == 2) {
        if (queries >= 8) {  // many read the same: widen it once
          float *wide_k[CHUNK / PAGE], *wide_v[CHUNK / PAGE];
          for (int i = 0; i < pages; i++) {
            wide_k[i] = widened + size_t(i) * PAGE * (d + deep);
            wide_v[i] = wide_k[i] + PAGE * d;
            for (int j = 0; j < PAGE * d; j += LANES) store(wide_k[i] + j, vector(k[i] + j));
            for (size_t j = 0; j < PAGE * deep; j += LANES) store(wide_v[i] + j, vector(v[i] + j));
          }
          chunk(item, span, wide_k, wide_v, query, weights, out, most, total);
          continue;
        }
      }
      chunk(item, span, k, v, query, weights, out, most, total);
    }
    for (int q = 0; q < queries; q++) {
      A *to = act + (item.first + q / group) * act_wide + (item.head * group + q % group) * d;
      float scale = 1.0f / total[q];
      for (int i = 0; i < d; i++) keep(to + i, out[q * deep + i] * scale);
    }
  }

  // Scores of keys from `from` on become weights, 0 outside of first..last; the sums so far are scaled to fit.
  void fold(float *row, int from, int pages, int first, int last, float &most, float &total, float *out) const {
    i16 lane;
    for (int i = 0; i < LANES; i++) lane[i] = from + i;
    v16 high = splat(-INFINITY);
    for (int n = 0; n < pages; n++, lane += PAGE) {
      v16 score = load<v16>(row + n * PAGE);
      i16 seen = (lane >= first) & (lane <= last);
      score = seen ? score : splat(-INFINITY);
      store(row + n * PAGE, score);
      high = score > high ? score : high;
    }
    float now = std::max(most, largest(high));
    if (now == -INFINITY) {  // nothing to see here yet
      std::fill(row, row + pages * PAGE, 0.0f);
      return;
    }
    float shrink = vexp(splat(most - now))[0];
    v16 all{};
    for (int n = 0; n < pages; n++) {
      v16 weight = vexp(load<v16>(row + n * PAGE) - now);
      store(row + n * PAGE, weight);
      all += weight;
    }
    total = total * shrink + sum(all);
    most = now;
    for (size_t i = 0; i < deep; i += LANES) store(out + i, load<v16>(out + i) * shrink);
  }

  Model &m;
  const Shape &c;
  const Call &call;
  std::vector<Item> items;
  std::vector<std::atomic<int>> counters;
  size_t wide, qkv_wide, act_wide, inner_wide, deep, each;
  int group, tokens_each;
  float *x, *qkv;  // residual stream; queries, keys and values
  A *act, *middle;
  char *own;
};

template <class T, class C> void run(Model &m, const Call &call) {
  Pass<T, C> pass(m, call);
  m.team->run([&](int member) { pass.work(member); });
}
template <class T> void run_kind(Model &m, const Call &call) {
  m.c.cache_bf16 ? run<T, uint16_t>(m, call) : run<T, float>(m, call);
}

void fill(float *&to, const float *from, int count) {
  if (!to) to = (float *)room(size_t(padded(count)) * sizeof(float));
  std::copy(from, from + count, to);
  std::fill(to + count, to + padded(count), 0.0f);
}

Matrix &matrix_of(Model &m, int layer, int which) {
  if (which == 4) return m.head;
  Layer &l = m.layers[layer];
  return which == 0 ? l.qkv : which == 1 ? l.o : which == 2 ? l.gate_up : l.down;
}

}  // namespace

// ---- what model.py calls -------------------------------------------------------------------------------------

extern "C" {

void *publius_new(const Shape *shape) { return new Model(*shape); }
void publius_free(void *model) { delete (Model *)model; }

void publius_threads(void *model, int threads) {
  Model &m = *(Model *)model;
  if (threads == m.c.threads) return;
  m.c.threads = threads;
  m.team.reset(new Team(threads));
}

// `which`: 0 q, k and v; 1 o; 2 gates, then ups; 3 down; 4 the head. [outputs, inputs] row by row.
void publius_matrix(void *model, int layer, int which, const void *data, int half, int outputs, int inputs) {
  Model &m = *(Model *)model;
  Source from{data, half != 0, outputs, inputs, which == 2};
  Matrix &to = matrix_of(m, layer, which);
  m.c.kind == F32    ? pack<AsF32>(*m.team, to, from)
  : m.c.kind == BF16 ? pack<AsBF16>(*m.team, to, from)
                     : pack<AsInt8>(*m.team, to, from);
}

void publius_bias(void *model, int layer, int which, const float *data, int count) {
  Matrix &to = matrix_of(*(Model *)model, layer, which);
  Source from{data, false, count, 1, which == 2};
  std::vector<float> all(size_t(to.panels) * LANES);
  for (int panel = 0; panel < to.panels; panel++)
    for (int lane = 0; lane < LANES; lane++) all[panel * LANES + lane] = from.at(from.row(panel, lane), 0);
  fill(to.bias, all.data(), int(all.size()));
}

// `which`: 0 before attention, 1 before the feed-forward, 2 of queries, 3 of keys, 4 the last.
void publius_norm(void *model, int layer, int which, const float *data, int count) {
  Model &m = *(Model *)model;
  if (which == 4) return fill(m.last_norm, data, count);
  Layer &l = m.layers[layer];
  float *&to = which == 0 ? l.before_attention : which == 1 ? l.before_mlp : which == 2 ? l.q_norm : l.k_norm;
  fill(to, data, count);
}

void publius_layer(void *model, int layer, int window, int rotary) {
  ((Model *)model)->layers[layer].window = window;
  ((Model *)model)->layers[layer].rotary = rotary;
}

// Kept by reference: the embedding [vocab, width] and cosines and sines [positions, head_dim / 2].
void publius_tables(void *model, const void *embedding, int half, const float *cosine, const float *sine) {
  Model &m = *(Model *)model;
  m.embed16 = half ? (const uint16_t *)embedding : nullptr;
  m.embed32 = half ? nullptr : (const float *)embedding;
  m.cosine = cosine;
  m.sine = sine;
}

void publius_forward(void *model, const Call *call) {
  Model &m = *(Model *)model;
  m.c.kind == F32    ? run_kind<AsF32>(m, *call)
  : m.c.kind == BF16 ? run_kind<AsBF16>(m, *call)
                     : run_kind<AsInt8>(m, *call);
}

// Rows [rows, stride] of logits, `count` of each.
void publius_draw(const float *logits, int rows, int count, int64_t stride, const float *temperatures,
                  const double *uniforms, int64_t *tokens, float *logps) {
  for (int row = 0; row < rows; row++)
    draw_row(logits + row * stride, count, temperatures[row], uniforms[row], tokens + row, logps + row);
}

}  // extern "C"
