// A model's weights, and what one call is given.

#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "products.h"
#include "team.h"

namespace {

struct Layer {
  Matrix qkv, o, gate_up, down;
  float *before_attention = nullptr, *before_mlp = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  int window = 0, rotary = 1;
};

extern "C" struct Shape {
  int32_t layers, width, heads, kv_heads, head_dim, inner, vocab, kind, cache, threads;  // kinds: products.h
  float eps;
};

struct Model {
  Arena arena;
  Shape c;
  std::vector<Layer> layers;
  Matrix head;
  float *last_norm = nullptr;
  const float *cosine = nullptr, *sine = nullptr, *embed32 = nullptr;
  const uint16_t *embed16 = nullptr;
  std::shared_ptr<Team> team;
  std::vector<char> scratch;
  explicit Model(const Shape &c) : c(c), layers(c.layers), team(Team::of(c.threads)) {}
};

extern "C" struct Call {
  int32_t rows, sequences, outputs, table_width;
  const int32_t *tokens, *positions;     // [rows]
  const int32_t *starts;                 // [sequences + 1]: rows of each, at rising positions
  const int32_t *tables;                 // [sequences, table_width]: pages by position
  const int32_t *wanted;                 // [outputs]: rows whose logits are asked for
  void *keys, *values;                   // [layers, pages, kv_heads, head_dim, PAGE], [.., PAGE, padded head_dim];
                                         // in int8 each followed by the fp32 scales of its PAGE tokens
  int64_t pages;
  float *logits;                         // [outputs, padded vocab]
  int32_t taps;                          // of the wanted rows' states: how many besides the last
  const int32_t *layers;                 // [taps]: after how many layers, rising
  float *states;                         // [outputs, taps + 1, width], or null
  const float *probe;                    // [reads, (taps + 1) * width + 1]: linear outputs of the states, a bias last
  int32_t reads;
  float *read;                           // [outputs, reads], or null
  const float *inputs;                   // [rows, width]: what the first layer gets in place of embedded tokens, or null
  float *trunk;                          // [pages, PAGE, width]: what the last layer gets, by page; or null
  float *const *trunks;                  // [sequences]: the same of one sequence, by position; each may be null
};

}  // namespace
