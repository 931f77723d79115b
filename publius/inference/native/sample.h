// A token for a row of logits: the likeliest, or the one at a given place of the cumulative distribution. And
// the log-probabilities of given ones.

#pragma once

#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace {

// What a row of logits says: its likeliest token, and how the others compare.
struct Row {
  const float *logits;
  int count, best = 0;
  float most = -INFINITY, slope;
  bool broken = false;  // NaN, nothing possible, or no largest
  double total = 0;     // of weights, in double by blocks of 16 in order: alike wherever the row stands
  Row(const float *logits, int count, float temperature)
      : logits(logits), count(count), slope(temperature > 0 ? 1.0f / temperature : 1.0f) {
    for (int i = 0; i < count; i++) {
      broken |= logits[i] != logits[i];
      if (logits[i] > most) most = logits[i], best = i;
    }
    broken |= most == -INFINITY || most == INFINITY;
    if (!broken)
      for (int i = 0; i < count; i += LANES) total += sum(weights(i));
  }
  // Of 16 tokens, the likeliest's being 1; 0 past the end.
  v16 weights(int from) const {
    v16 x = splat(-INFINITY);
    if (from + LANES <= count)
      x = load<v16>(logits + from);
    else
      for (int i = from; i < count; i++) x[i - from] = logits[i];
    return vexp((x - most) * slope);
  }
  float logp(int token) const {
    return broken ? NAN : float(double((logits[token] - most) * slope) - std::log(total));
  }
};

// Logits [count] at `temperature` (0: the likeliest, its log-probability at temperature 1). `uniform` in [0, 1).
inline void draw_row(const float *logits, int count, float temperature, double uniform, int64_t *token, float *logp) {
  const Row row(logits, count, temperature);
  int chosen = row.best;
  if (temperature > 0 && !row.broken) {
    double target = std::fmin(uniform * row.total, std::nextafter(row.total, 0.0)), before = 0;
    for (int i = 0; i < count; i += LANES) {
      v16 w = row.weights(i);
      double block = sum(w);
      if (before + block <= target) {
        before += block;
        continue;
      }
      for (int j = 0; j < LANES && i + j < count; j++) {
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
