// A token for a row of logits: the likeliest, or the one at a given place of the cumulative distribution. And
// the log-probabilities of given ones.

#pragma once

#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace {

// What a row of logits says: its likeliest token, and how the others compare. With a `mask`, one bit a token, the
// lowest first, only those of set bits may come; of tokens past its `masked` words, none.
struct Row {
  const float *logits;
  const uint32_t *mask;
  int count, masked, best = 0;
  float most, slope;
  bool broken;       // NaN, nothing possible, or no largest
  double total = 0;  // of weights, in double by blocks of 16 in order: alike wherever the row stands
  Row(const float *logits, int count, float temperature, const uint32_t *mask = nullptr, int masked = 0)
      : logits(logits), mask(mask), count(count), masked(masked), slope(temperature > 0 ? 1.0f / temperature : 1.0f) {
    v16 high = splat(-INFINITY);
    i16 number = (i16{} == 0);
    for (int i = 0; i < count; i += LANES) {
      if (!bits(i)) continue;
      const v16 x = block(i);
      number &= x == x;
      high = x > high ? x : high;
    }
    most = largest(high);
    broken = most == -INFINITY || most == INFINITY;
    for (int i = 0; i < LANES; i++) broken |= !number[i];
    if (broken) return;
    for (int i = 0, found = 0; i < count && !found; i += LANES) {
      if (!bits(i)) continue;
      const v16 x = block(i);
      for (int lane = LANES - 1; lane >= 0; lane--)
        if (x[lane] == most) best = i + lane, found = 1;
    }
    for (int i = 0; i < count; i += LANES)
      if (bits(i)) total += sum(weights(i));
  }
  // Which of 16 tokens may come.
  uint32_t bits(int from) const {
    if (!mask) return 0xffff;
    return from / 32 < masked ? mask[from / 32] >> from % 32 & 0xffff : 0;
  }
  // 16 logits; -inf past the end and of what may not come.
  v16 block(int from) const {
    v16 x = splat(-INFINITY);
    if (from + LANES <= count)
      x = load<v16>(logits + from);
    else
      for (int i = from; i < count; i++) x[i - from] = logits[i];
    if (!mask) return x;
    const u16 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    return (((u16{} + bits(from)) >> lanes) & 1) != 0 ? x : splat(-INFINITY);
  }
  // Of 16 tokens, the likeliest's being 1.
  v16 weights(int from) const { return vexp((block(from) - most) * slope); }
  float logp(int token) const {
    return broken ? NAN : float(double((logits[token] - most) * slope) - std::log(total));
  }
};

// At the row's temperature (0: the likeliest, its log-probability at temperature 1). `uniform` in [0, 1).
inline void draw_row(const Row &row, float temperature, double uniform, int64_t *token, float *logp) {
  int chosen = row.best;
  if (temperature > 0 && !row.broken) {
    double target = std::fmin(uniform * row.total, std::nextafter(row.total, 0.0)), before = 0;
    for (int i = 0; i < row.count; i += LANES) {
      if (!row.bits(i)) continue;
      v16 w = row.weights(i);
      double block = sum(w);
      if (before + block <= target) {
        before += block;
        continue;
      }
      for (int j = 0; j < LANES && i + j < row.count; j++) {
        if (w[j] > 0) chosen = i + j;  // rounding may leave the target past the block: then its last
        before += w[j];
        if (w[j] > 0 && before > target) break;
      }
      break;
    }
  }
  *token = chosen;
  *logp = row.logp(chosen);
}

}  // namespace

extern "C" {

// Rows [rows, stride] of logits, `count` of each. `masks`: of each row, `masked` words that say which tokens may
// come, or null where all may.
void publius_draw(const float *logits, int rows, int count, int64_t stride, const float *temperatures,
                  const double *uniforms, const uint32_t *const *masks, int masked, int64_t *tokens, float *logps) {
  for (int i = 0; i < rows; i++) {
    const Row row(logits + i * stride, count, temperatures[i], masks[i], masked);
    draw_row(row, temperatures[i], uniforms[i], tokens + i, logps + i);
  }
}

// Log-probabilities, at temperature 1, of `tokens` in `rows` of logits; the same row's next to each other.
void publius_score(const float *logits, int count, int64_t stride, int asked, const int64_t *rows,
                   const int64_t *tokens, float *logps) {
  for (int i = 0; i < asked;) {
    const Row row(logits + rows[i] * stride, count, 1.0f);
    for (int64_t which = rows[i]; i < asked && rows[i] == which; i++) logps[i] = row.logp(int(tokens[i]));
  }
}

}  // extern "C"
