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
// products read bf16 activations where the CPU multiplies in bf16, for int8 weights int8 ones with a scale for
// every 32 where it multiplies in int8, else fp32 ones.

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "attention.h"
#include "model.h"
#include "products.h"
#include "reads.h"
#include "sample.h"
#include "vectors.h"

namespace {

// One forward pass; every member of the team runs `work`.
template <class T, class C> class Pass : Attention<typename T::A, C> {
 public:
  typedef typename T::A A;
  typedef Attention<A, C> Base;

  Pass(Model &m, const Call &call) : Base(m, call) {
    wide = padded(c.width);
    qkv_wide = padded((c.heads + 2 * c.kv_heads) * c.head_dim);
    inner_wide = padded(c.inner);
    act_wide = std::max(wide, size_t(padded(c.heads * c.head_dim)));
    deep = padded(c.head_dim);
    group = c.heads / c.kv_heads;
    tokens_each = std::max(1, QUERIES / group);
    // Eight queries are attended together: a rest of one or two costs as much as four.
    while (tokens_each * group % 8 && tokens_each * group < 2 * QUERIES) tokens_each++;
    for (int s = 0; s < call.sequences; s++)
      for (int row = call.starts[s]; row < call.starts[s + 1]; row += tokens_each)
        for (int h = 0; h < c.kv_heads; h++)
          items.push_back({s, h, row, std::min(tokens_each, call.starts[s + 1] - row)});
    // The last queries of a long prompt see most keys: begin with them, so that members end together.
    std::stable_sort(items.begin(), items.end(), [&](const Item &a, const Item &b) {
      return call.positions[a.first] > call.positions[b.first];
    });
    size_t rows = std::max(call.rows, call.outputs), queries = size_t(tokens_each) * group;
    const size_t widened = sizeof(C) < 4 ? size_t(CHUNK) * (c.head_dim + deep) : 0;
    part_size = sum_size(int(queries));
    each = ((queries * (c.head_dim + CHUNK) + 2 * part_size + widened) * sizeof(float) + 63) / 64 * 64;
    most_inputs = std::max({c.width, c.inner, c.heads * c.head_dim});
    if (T::BLOCKS) each = std::max(each, (Quantized::bytes(FEW, most_inputs) + 63) / 64 * 64);
    first_wanted = call.outputs ? *std::min_element(call.wanted, call.wanted + call.outputs) : 0;
    end_wanted = call.outputs ? *std::max_element(call.wanted, call.wanted + call.outputs) + 1 : 0;
    int longest = 0;
    for (int row = 0; row < call.rows; row++) longest = std::max(longest, call.positions[row]);
    span_count = longest / SPAN + 1;
    const bool cut = span_count > 1 && int(items.size()) < 2 * c.threads;
    size_t sizes[] = {rows * wide * sizeof(float), rows * qkv_wide * sizeof(float), rows * act_wide * sizeof(A),
                      rows * inner_wide * sizeof(A), each * c.threads,
                      cut ? items.size() * span_count * part_size * sizeof(float) : 0,
                      T::BLOCKS ? Quantized::bytes(rows, most_inputs) : 0,
                      call.read && !call.states ? state_size() * call.outputs * sizeof(float) : 0};
    size_t all = 64;
    for (size_t &size : sizes) all += size = (size + 63) / 64 * 64;
    if (m.scratch.size() < all) m.scratch = std::vector<char>(all);
    char *at = (char *)((uintptr_t(m.scratch.data()) + 63) / 64 * 64);
    char *places[8];
    for (int i = 0; i < 8; at += sizes[i++]) places[i] = at;
    x = (float *)places[0];
    qkv = (float *)places[1];
    act = (A *)places[2];
    middle = (A *)places[3];
    own = places[4];
    spans = cut ? (float *)places[5] : nullptr;
    quantized = places[6];
    states = call.states || !call.read ? call.states : (float *)places[7];
    counters = std::vector<std::atomic<int>>(size_t(c.layers) * 13 + 5 + call.taps);
  }

  void work(int member) {
    float *mine = (float *)(own + each * member);
    int phase = 0;
    shared(phase++, call.rows, 16, [&](int row) { embed(row); });
    m.team->barrier();
    for (int l = 0; l < c.layers; l++) {
      const Layer &layer = m.layers[l];
      tap(phase, l);
      if (call.trunk && l + 1 == c.layers) shared(phase++, call.rows, 16, [&](int row) { keep_trunk(row); });
      shared(phase++, call.rows, 4, [&](int row) { norm(row, layer.before_attention, row); });
      m.team->barrier();
      product(phase, layer.qkv, Rows<A>{act, act_wide}, call.rows, mine, Write{qkv, qkv_wide});
      m.team->barrier();
      shared(phase++, call.rows * c.kv_heads, 4, [&](int i) { turn(l, i / c.kv_heads, i % c.kv_heads); });
      m.team->barrier();
      // Of other rows than those between the first wanted and the last the last layer only keeps keys and values.
      const bool last = l + 1 == c.layers;
      const int from = last ? first_wanted : 0, count = last ? end_wanted - first_wanted : call.rows;
      A *normed = act + from * act_wide;
      const Add onto{x + from * wide, wide};
      attention(phase, l, mine, from, from + count);
      phase += 2;
      m.team->barrier();
      product(phase, layer.o, Rows<A>{normed, act_wide}, count, mine, onto);
      m.team->barrier();
      shared(phase++, count, 4, [&](int i) { norm(from + i, layer.before_mlp, from + i); });
      m.team->barrier();
      product(phase, layer.gate_up, Rows<A>{normed, act_wide}, count, mine, SwiGLU<A>{middle, inner_wide});
      m.team->barrier();
      product(phase, layer.down, Rows<A>{middle, inner_wide}, count, mine, onto);
      m.team->barrier();
    }
    shared(phase++, call.outputs, 4, [&](int i) {
      norm(call.wanted[i], m.last_norm, i);
      if (states) state(i, m.last_norm, call.taps);
      if (call.read)
        read_row(states + i * state_size(), int(state_size()), call.probe, call.reads, call.read + size_t(i) * call.reads);
    });
    m.team->barrier();
    product(phase, m.head, Rows<A>{act, act_wide}, call.outputs, mine, Write{call.logits, size_t(padded(c.vocab))});
  }

 private:
  using Base::act;
  using Base::act_wide;
  using Base::attend;
  using Base::attend_part;
  using Base::c;
  using Base::call;
  using Base::deep;
  using Base::gather;
  using Base::group;
  using Base::items;
  using Base::keys;
  using Base::m;
  using Base::part_size;
  using Base::qkv;
  using Base::qkv_wide;
  using Base::span_count;
  using Base::spans;
  using Base::sum_size;
  using Base::tokens_each;
  using Base::values;

  // Members take `grain` of `count` pieces at a time, until none is left.
  template <class F> void shared(int phase, int count, int grain, const F &piece) {
    std::atomic<int> &next = counters[phase];
    for (;;) {
      int from = next.fetch_add(grain);
      if (from >= count) return;
      for (int i = from; i < std::min(count, from + grain); i++) piece(i);
    }
  }

  // What has queries between rows `from` and `end`. Long rows are cut when there are fewer items than members to
  // work on them.
  void attention(int phase, int l, float *mine, int from, int end) {
    const int count = int(items.size());
    auto asks = [&](int i) { return items[i].first < end && items[i].first + items[i].count > from; };
    if (!spans) return shared(phase, count, 1, [&](int i) { if (asks(i)) attend(l, items[i], mine); });
    shared(phase, count * span_count, 1, [&](int i) {
      const int item = i / span_count;
      if (asks(item)) attend_part(l, items[item], item, i % span_count, mine);
    });
    m.team->barrier();
    shared(phase + 1, count, 1, [&](int i) { if (asks(i)) gather(l, items[i], i); });
  }

  template <class Out> void product(int &phase, const Matrix &w, const Rows<A> &from, int rows, float *mine, const Out &out) {
    if constexpr (T::BLOCKS) {
      const Quantized all(rows <= FEW ? (char *)mine : quantized, rows, w.inputs);
      auto take = [&](int row) { all.take(row, from.at(row), w.inputs); };
      if (rows <= FEW) {  // everybody for himself: sooner done than waited for
        for (int row = 0; row < rows; row++) take(row);
      } else {
        shared(phase++, rows, 4, take);
        m.team->barrier();
      }
      panels(phase++, w, all, rows, out);
    } else {
      panels(phase++, w, from, rows, out);
    }
  }

  template <class X, class Out> void panels(int phase, const Matrix &w, const X &from, int rows, const Out &out) {
    int side = T::BLOCKS || rows < TALL ? 4 : 2, groups = (w.panels + side - 1) / side;
    shared(phase, groups, std::max(1, groups / (m.team->size * 8)), [&](int g) {
      int panel = g * side, end = std::min(panel + side, w.panels);
      for (; panel + 4 <= end; panel += 4) strip<T, 4>(w, panel, from, rows, out);
      for (; panel + 2 <= end; panel += 2) strip<T, 2>(w, panel, from, rows, out);
      if constexpr (!Out::PAIRS)
        for (; panel < end; panel++) strip<T, 1>(w, panel, from, rows, out);
    });
  }

  void embed(int row) {
    float *to = x + row * wide;
    if (call.inputs) {
      std::copy(call.inputs + size_t(row) * c.width, call.inputs + size_t(row + 1) * c.width, to);
    } else {
      size_t from = size_t(call.tokens[row]) * c.width;
      for (int i = 0; i < c.width; i++) to[i] = m.embed16 ? from_bf16(m.embed16[from + i]) : m.embed32[from + i];
    }
    std::fill(to + c.width, to + wide, 0.0f);
  }

  // What the last layer gets of a row: into its page, for who begins alike, and to its sequence's own place.
  void keep_trunk(int row) {
    const int s = sequence_of(row), at = call.positions[row];
    const size_t page = call.tables[size_t(s) * call.table_width + at / PAGE];
    const float *from = x + row * wide;
    std::copy(from, from + c.width, call.trunk + (page * PAGE + at % PAGE) * c.width);
    if (call.trunks[s]) std::copy(from, from + c.width, call.trunks[s] + size_t(at) * c.width);
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

  // Wanted rows' residual stream, where it is asked for after `done` layers. Nobody waits for it: until the next
  // barrier nothing writes to the stream.
  void tap(int &phase, int done) {
    for (int t = 0; t < call.taps; t++)
      if (call.layers[t] == done) shared(phase++, call.outputs, 4, [&](int i) { state(i, nullptr, t); });
  }

  // RMSNorm of wanted row `i`, in full precision, into its state number `place`.
  void state(int i, const float *weight, int place) {
    whiten(x + call.wanted[i] * wide, c.width, wide, c.eps, weight, states + i * state_size() + size_t(place) * c.width);
  }
  size_t state_size() const { return size_t(call.taps + 1) * c.width; }

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
    int page = call.tables[size_t(sequence_of(row)) * call.table_width + position / PAGE], place = position % PAGE;
    C *k = keys(l, page, h) + place, *v = values(l, page, h) + size_t(place) * deep;
    if constexpr (sizeof(C) == 1) {
      Base::shrink(keys(l, page, h), size_t(d) * PAGE, place, key, d, k, PAGE);
      Base::shrink(values(l, page, h), deep * PAGE, place, value, d, v, 1);
    } else {
      for (int i = 0; i < d; i++) keep(k + size_t(i) * PAGE, key[i]);
      for (int i = 0; i < d; i++) keep(v + i, value[i]);
    }
    std::fill(v + d, v + deep, C{});
  }

  int sequence_of(int row) const {
    return int(std::upper_bound(call.starts, call.starts + call.sequences, row) - call.starts) - 1;
  }

  static constexpr int FEW = 4;
  std::vector<std::atomic<int>> counters;
  size_t wide, inner_wide, each;
  int most_inputs, first_wanted, end_wanted;
  char *quantized;
  float *x;   // residual stream
  float *states;  // of wanted rows, or null
  A *middle;  // of the feed-forward
  char *own;
};

template <class T, class C> void run(Model &m, const Call &call) {
  Pass<T, C> pass(m, call);
  m.team->run([&](int member) { pass.work(member); });
}
template <class T> void run_kind(Model &m, const Call &call) {
  m.c.cache == BF16   ? run<T, uint16_t>(m, call)
  : m.c.cache == INT8 ? run<T, int8_t>(m, call)
                      : run<T, float>(m, call);
}

void fill(Arena &arena, float *&to, const float *from, int count) {
  if (!to) to = (float *)arena.take(size_t(padded(count)) * sizeof(float));
  std::copy(from, from + count, to);
  std::fill(to + count, to + padded(count), 0.0f);
}

Matrix &matrix_of(Model &m, int layer, int which) {
  if (which == 4) return m.head;
  Layer &l = m.layers[layer];
  return which == 0 ? l.qkv : which == 1 ? l.o : which == 2 ? l.gate_up : l.down;
}

}  // namespace

// ---- what model.py calls (draw.py: see reads.h and sample.h) ------------------------------------------------

extern "C" {

void *publius_new(const Shape *shape) { return new Model(*shape); }
void publius_free(void *model) { delete (Model *)model; }

void publius_threads(void *model, int threads) {
  Model &m = *(Model *)model;
  if (threads == m.c.threads) return;
  m.c.threads = threads;
  m.team = Team::of(threads);
}

// `which`: 0 q, k and v; 1 o; 2 gates, then ups; 3 down; 4 the head. [outputs, inputs] row by row.
void publius_matrix(void *model, int layer, int which, const void *data, int half, int outputs, int inputs) {
  Model &m = *(Model *)model;
  Source from{data, half != 0, outputs, inputs, which == 2};
  Matrix &to = matrix_of(m, layer, which);
  m.c.kind == F32    ? pack<AsF32>(*m.team, m.arena, to, from)
  : m.c.kind == BF16 ? pack<AsBF16>(*m.team, m.arena, to, from)
                     : pack<AsInt8>(*m.team, m.arena, to, from);
}

void publius_bias(void *model, int layer, int which, const float *data, int count) {
  Model &m = *(Model *)model;
  Matrix &to = matrix_of(m, layer, which);
  Source from{data, false, count, 1, which == 2};
  std::vector<float> all(size_t(to.panels) * LANES);
  for (int panel = 0; panel < to.panels; panel++)
    for (int lane = 0; lane < LANES; lane++) all[panel * LANES + lane] = from.at(from.row(panel, lane), 0);
  fill(m.arena, to.bias, all.data(), int(all.size()));
}

// `which`: 0 before attention, 1 before the feed-forward, 2 of queries, 3 of keys, 4 the last.
void publius_norm(void *model, int layer, int which, const float *data, int count) {
  Model &m = *(Model *)model;
  if (which == 4) return fill(m.arena, m.last_norm, data, count);
  Layer &l = m.layers[layer];
  float *&to = which == 0 ? l.before_attention : which == 1 ? l.before_mlp : which == 2 ? l.q_norm : l.k_norm;
  fill(m.arena, to, data, count);
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

}  // extern "C"
