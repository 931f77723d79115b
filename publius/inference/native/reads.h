// Of residual rows: the states that probes read, and what probes say of them.

#pragma once

#include <cmath>
#include <cstddef>

#include "vectors.h"

namespace {

// RMSNorm of a row of `width` numbers (zeros up to `wide`), in full precision; without weights only divided by its
// root mean square.
inline void whiten(const float *from, int width, size_t wide, float eps, const float *weight, float *to) {
  v16 squares{};
  for (size_t k = 0; k < wide; k += LANES) squares += load<v16>(from + k) * load<v16>(from + k);
  const float scale = 1.0f / std::sqrt(sum(squares) / width + eps);
  for (int k = 0; k < width; k++) to[k] = from[k] * scale * (weight ? weight[k] : 1.0f);
}

// Linear outputs of a row of states; of weights [outputs, width + 1] the last is a bias. Each in one order, wherever
// the row stands: 16 sums side by side, then the rest.
inline void read_row(const float *x, int width, const float *weights, int outputs, float *to) {
  const int whole = width / LANES * LANES;
  for (int o = 0; o < outputs; o++) {
    const float *w = weights + size_t(o) * (width + 1);
    v16 sums{};
    for (int k = 0; k < whole; k += LANES) sums = fused(load<v16>(x + k), load<v16>(w + k), sums);
    float all = sum(sums) + w[width];
    for (int k = whole; k < width; k++) all += x[k] * w[k];
    to[o] = all;
  }
}

}  // namespace

extern "C" {

// `read_row` of each of `rows` rows, `stride` apart.
void publius_read(const float *states, int rows, int width, int64_t stride, const float *weights, int outputs,
                  float *read) {
  for (int i = 0; i < rows; i++) read_row(states + i * stride, width, weights, outputs, read + size_t(i) * outputs);
}

}  // extern "C"
