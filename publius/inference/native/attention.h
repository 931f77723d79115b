// Attention over pages of keys and values, by blocks of queries and spans of keys.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "model.h"
#include "vectors.h"

namespace {

constexpr int PAGE = 16;    // tokens in a page: one vector of scores
constexpr int CHUNK = 512;  // keys between two folds of the softmax
constexpr int SPAN = 4096;  // keys that one member attends to by itself when there are members to spare
constexpr int QUERIES = 32; // about so many queries (tokens x heads of a group) read a page together

struct Item {
  int sequence, head, first, count;  // `count` query tokens from row `first`
};

template <class A, class C> class Attention {
 protected:
  Attention(Model &m, const Call &call) : m(m), c(m.c), call(call) {}

  // Pages of key head `h` in layer `l`.
  C *keys(int l, int page, int h) const {
    return (C *)call.keys + ((size_t(l) * call.pages + page) * c.kv_heads + h) * (c.head_dim * PAGE + SCALES);
  }
  C *values(int l, int page, int h) const {
    return (C *)call.values + ((size_t(l) * call.pages + page) * c.kv_heads + h) * (deep * PAGE + SCALES);
  }
  static constexpr size_t SCALES = sizeof(C) == 1 ? PAGE * sizeof(float) : 0;  // behind the numbers of a page

  // Stores one token's key or value, `stride` apart, at `place` of a page of `size` numbers; NaN makes all of it so.
  static void shrink(C *page, size_t size, int place, const float *from, int count, C *to, int stride) {
    float most = 0;
    bool number = true;
    for (int i = 0; i < count; i++) most = std::max(most, std::fabs(from[i])), number &= from[i] == from[i];
    const float inverse = most > 0 ? 127.0f / most : 0.0f, scale = number ? most / 127.0f : NAN;
    for (int i = 0; i < count; i++) to[size_t(i) * stride] = C(number ? std::lrint(from[i] * inverse) : 0);
    std::memcpy((char *)(page + size) + place * sizeof(float), &scale, sizeof scale);
  }
  // A page in fp32, vectors of 16: a scale for every lane (keys) or for every line (values).
  void widen_keys(const C *page, float *to) const {
    v16 scale = splat(1.0f);
    if constexpr (SCALES > 0) scale = load<v16>(page + c.head_dim * PAGE);
    for (int j = 0; j < c.head_dim; j++) {
      v16 x = vector(page + j * PAGE);
      if constexpr (SCALES > 0) x *= scale;
      store(to + j * PAGE, x);
    }
  }
  void widen_values(const C *page, float *to) const {
    float scales[PAGE];
    if constexpr (SCALES > 0) std::memcpy(scales, page + deep * PAGE, sizeof scales);
    for (int key = 0; key < PAGE; key++)
      for (size_t j = key * deep; j < (key + 1) * deep; j += LANES) {
        v16 x = vector(page + j);
        if constexpr (SCALES > 0) x *= splat(scales[key]);
        store(to + j, x);
      }
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
        for (int n = 0; n < N; n++) acc[q][n] = fused(key[n], splat(query[q * c.head_dim + i]), acc[q][n]);
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
        for (int n = 0; n < N; n++) acc[q][n] = fused(value[n], splat(weights[q * CHUNK + key]), acc[q][n]);
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

  // Where a member works on an item: its queries, and what a span of keys gives them.
  struct Desk {
    float *query, *weights, *out, *most, *total, *widened, *sums;
    Desk(float *mine, const Attention &pass, int queries) {
      query = mine;
      weights = query + size_t(queries) * pass.c.head_dim;
      out = weights + size_t(queries) * CHUNK;
      most = out + queries * pass.deep;
      total = most + queries;
      sums = total + queries;
      widened = sums + pass.sum_size(queries);
    }
  };
  // Floats of what spans give `queries` queries: outputs, largest scores, totals.
  size_t sum_size(int queries) const { return queries * (deep + 2); }

  struct Span {
    int from, count, pages, queries, window;  // keys from `from` on
  };

  // One chunk of keys for all queries of an item.
  template <class K>
  void chunk(const Item &item, const Span &span, K *const *k, K *const *v, const Desk &desk) const {
    const int d = c.head_dim, queries = span.queries;
    const float *query = desk.query;
    float *weights = desk.weights, *out = desk.out;
    int q = 0;
    for (; q + 8 <= queries; q += 8) score_rows<8>(query + q * d, k, span.pages, weights + q * CHUNK);
    for (; q + 4 <= queries; q += 4) score_rows<4>(query + q * d, k, span.pages, weights + q * CHUNK);
    for (; q < queries; q++) score_rows<1>(query + q * d, k, span.pages, weights + q * CHUNK);
    for (q = 0; q < queries; q++) {
      const int last = call.positions[item.first + q / group], first = span.window ? last - span.window + 1 : 0;
      fold(weights + q * CHUNK, span.from, span.pages, first, last, desk.most[q], desk.total[q], out + q * deep);
    }
    q = 0;
    if (deep <= 2 * LANES)
      for (; q + 8 <= queries; q += 8) weigh_rows<8>(weights + q * CHUNK, v, span.count, out + q * deep);
    for (; q + 4 <= queries; q += 4) weigh_rows<4>(weights + q * CHUNK, v, span.count, out + q * deep);
    for (; q < queries; q++) weigh_rows<1>(weights + q * CHUNK, v, span.count, out + q * deep);
  }

  int first_key(int l, const Item &item) const {
    const int window = m.layers[l].window;
    return window ? std::max(0, call.positions[item.first] - window + 1) : 0;
  }
  int last_key(const Item &item) const { return call.positions[item.first + item.count - 1]; }

  // Softmax over all keys that an item's queries see (Milakov and Gimelshein 2018, 1805.02867), a span at a time.
  void attend(int l, const Item &item, float *mine) {
    const int queries = item.count * group;
    Desk desk(mine, *this, queries);
    const int begin = first_key(l, item) / SPAN, end = last_key(item) / SPAN + 1;
    for (int span = begin; span < end; span++) {
      attend_span(l, item, span, desk);
      if (end - begin == 1) return finish(item, desk.out);
      if (span == begin)
        std::memcpy(desk.sums, desk.out, sum_size(queries) * sizeof(float));
      else
        merge(queries, desk.sums, desk.out);
    }
    finish(item, desk.sums);
  }

  // One span of it, for whichever member is free: into `spans`, which `gather` puts together.
  void attend_part(int l, const Item &item, int number, int span, float *mine) {
    if (span < first_key(l, item) / SPAN || span > last_key(item) / SPAN) return;
    Desk desk(mine, *this, item.count * group);
    attend_span(l, item, span, desk);
    std::memcpy(part(number, span), desk.out, sum_size(item.count * group) * sizeof(float));
  }
  void gather(int l, const Item &item, int number) {
    const int begin = first_key(l, item) / SPAN, end = last_key(item) / SPAN + 1;
    for (int span = begin + 1; span < end; span++) merge(item.count * group, part(number, begin), part(number, span));
    finish(item, part(number, begin));
  }
  float *part(int number, int span) const { return spans + (size_t(number) * span_count + span) * part_size; }

  void attend_span(int l, const Item &item, int number, const Desk &desk) {
    const int window = m.layers[l].window, d = c.head_dim, queries = item.count * group;
    for (int t = 0; t < item.count; t++)
      std::memcpy(desk.query + size_t(t) * group * d, qkv + (item.first + t) * qkv_wide + item.head * group * d,
                  size_t(group) * d * sizeof(float));
    std::fill(desk.out, desk.out + queries * deep, 0.0f);
    std::fill(desk.most, desk.most + queries, -INFINITY);
    std::fill(desk.total, desk.total + queries, 0.0f);
    const int32_t *table = call.tables + size_t(item.sequence) * call.table_width;
    const int seen = std::max(first_key(l, item), number * SPAN);
    const int high = std::min(last_key(item), number * SPAN + SPAN - 1);
    for (int begin = seen / CHUNK * CHUNK; begin <= high; begin += CHUNK) {
      const int from = std::max(begin, seen / PAGE * PAGE), end = std::min(begin + CHUNK, high + 1);
      const int pages = (end - from + PAGE - 1) / PAGE;
      C *k[CHUNK / PAGE], *v[CHUNK / PAGE];
      for (int i = 0; i < pages; i++) {
        k[i] = keys(l, table[from / PAGE + i], item.head);
        v[i] = values(l, table[from / PAGE + i], item.head);
      }
      const Span span{from, end - from, pages, queries, window};
      if constexpr (sizeof(C) < 4)
        if (queries >= 8 || SCALES > 0) {  // many read the same: widen it once
          float *wide_k[CHUNK / PAGE], *wide_v[CHUNK / PAGE];
          for (int i = 0; i < pages; i++) {
            wide_k[i] = desk.widened + size_t(i) * PAGE * (d + deep);
            wide_v[i] = wide_k[i] + PAGE * d;
            widen_keys(k[i], wide_k[i]);
            widen_values(v[i], wide_v[i]);
          }
          chunk(item, span, wide_k, wide_v, desk);
          continue;
        }
      if constexpr (SCALES == 0) chunk(item, span, k, v, desk);
    }
  }

  // What two spans gave, in the first.
  void merge(int queries, float *into, const float *from) const {
    float *most = into + queries * deep, *total = most + queries;
    const float *other = from + queries * deep, *added = other + queries;
    for (int q = 0; q < queries; q++) {
      float now = std::max(most[q], other[q]);
      if (now == -INFINITY) continue;
      float mine = vexp(splat(most[q] - now))[0], theirs = vexp(splat(other[q] - now))[0];
      for (size_t i = q * deep; i < (q + 1) * deep; i += LANES)
        store(into + i, load<v16>(into + i) * mine + load<v16>(from + i) * theirs);
      most[q] = now;
      total[q] = total[q] * mine + added[q] * theirs;
    }
  }

  void finish(const Item &item, const float *sums) {
    const int queries = item.count * group, d = c.head_dim;
    const float *total = sums + queries * deep + queries;
    for (int q = 0; q < queries; q++) {
      A *to = act + (item.first + q / group) * act_wide + (item.head * group + q % group) * d;
      float scale = 1.0f / total[q];
      for (int i = 0; i < d; i++) keep(to + i, sums[q * deep + i] * scale);
    }
  }

  // Scores of keys from `from` on become weights, 0 outside of first..last; the sums so far are scaled to fit.
  void fold(float *row, int from, int pages, int first, int last, float &most, float &total, float *out) const {
    i16 lane{};
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
  size_t qkv_wide, act_wide, deep, part_size;
  int group, tokens_each, span_count;
  float *qkv;    // queries, keys and values of all rows
  A *act;        // where what was attended to goes
  float *spans;  // sums of each span of each item, where long rows are cut
};

}  // namespace
