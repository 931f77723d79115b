// A token for a row of logits: the likeliest, or the one at a given place of the cumulative distribution.

#pragma once

#include <cmath>
#include <cstdint>

#include "vectors.h"

namespace {

// Logits [count] at `temperature` (0: the likeliest, its log-probability at temperature 1). `uniform` in [0, 1).
// Sums are in double by blocks of 16 in order, so a row is drawn alike wherever it stands. NaN gives NaN.
inline void draw_row(const float *logits, int count, float temperature, double uniform, int64_t *token, float *logp) {
  const float slope = temperature > 0 ? 1.0f / temperature : 1.0f;
  float most = -INFINITY;
  int best = 0;
  bool broken = false;
  for (int i = 0; i < count; i++) {
    broken |= logits[i] != logits[i];
    if (logits[i] > most) most = logits[i], best = i;
  }
  if (broken || most == -INFINITY || most == INFINITY) {
    *token = best;
    *logp = NAN;
    return;
  }
  auto weights = [&](int from) {
    v16 x = splat(-INFINITY);
    if (from + LANES <= count)
      x = load<v16>(logits + from);
    else
      for (int i = from; i < count; i++) x[i - from] = logits[i];
    return vexp((x - most) * slope);
  };
  double total = 0;
  for (int i = 0; i < count; i += LANES) total += sum(weights(i));
  int chosen = best;
  if (temperature > 0) {
    double target = std::fmin(uniform * total, std::nextafter(total, 0.0)), before = 0;
    for (int i = 0; i < count; i += LANES) {
      v16 w = weights(i);
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
  *logp = float(double((logits[chosen] - most) * slope) - std::log(total));
}

}  // namespace
