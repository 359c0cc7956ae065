"""The C that every exported policy shares: layers over arrays of its own, without allocation."""

HEAD = """\
#include "policy.h"

#include <float.h>
#include <math.h>
#include <string.h>

"""
DENSE = """
/* y = W x + b; four sums side by side round less than one. */
static void dense(const float *weight, const float *bias, int inputs, int outputs, const float *x, float *y) {
  for (int o = 0; o < outputs; o++, weight += inputs) {
    float sum[4] = {0.0f, 0.0f, 0.0f, 0.0f};
    int i = 0;
    for (; i + 4 <= inputs; i += 4)
      for (int lane = 0; lane < 4; lane++) sum[lane] += weight[i + lane] * x[i + lane];
    for (; i < inputs; i++) sum[0] += weight[i] * x[i];
    y[o] = bias[o] + ((sum[0] + sum[1]) + (sum[2] + sum[3]));
  }
}
"""
SIGMOID = """
static float sigmoid(float x) { return 0.5f * (1.0f + tanhf(0.5f * x)); }
"""
_ACTIVATION = """
static void {name}(int count, float *x) {{
  for (int i = 0; i < count; i++) x[i] = {formula};
}}
"""
ACTIVATIONS = {
    name: _ACTIVATION.format(name=f"apply_{name}", formula=formula)
    for name, formula in {
        "tanh": "tanhf(x[i])",
        "relu": "x[i] > 0.0f ? x[i] : 0.0f",
        "elu": "x[i] > 0.0f ? x[i] : expm1f(x[i])",
        "silu": "x[i] * sigmoid(x[i])",
    }.items()
}
MEMORIES = {
    "gru": """
/* One step of the GRU: the new state, which is what it gives. */
static void remember(const float *x, const float *state, float *after) {
  float seen[3 * HIDDEN], known[3 * HIDDEN];
  dense(memory_weight_ih, memory_bias_ih, FEATURES, 3 * HIDDEN, x, seen);
  dense(memory_weight_hh, memory_bias_hh, HIDDEN, 3 * HIDDEN, state, known);
  for (int i = 0; i < HIDDEN; i++) {
    const float reset = sigmoid(seen[i] + known[i]);
    const float keep = sigmoid(seen[HIDDEN + i] + known[HIDDEN + i]);
    const float fresh = tanhf(seen[2 * HIDDEN + i] + reset * known[2 * HIDDEN + i]);
    after[i] = (1.0f - keep) * fresh + keep * state[i];
  }
}
""",
    "lstm": """
/* One step of the LSTM: the new state, what it gives first, then its cells. */
static void remember(const float *x, const float *state, float *after) {
  float seen[4 * HIDDEN], known[4 * HIDDEN];
  dense(memory_weight_ih, memory_bias_ih, FEATURES, 4 * HIDDEN, x, seen);
  dense(memory_weight_hh, memory_bias_hh, HIDDEN, 4 * HIDDEN, state, known);
  for (int i = 0; i < 4 * HIDDEN; i++) seen[i] += known[i];
  for (int i = 0; i < HIDDEN; i++) {
    const float cell = sigmoid(seen[HIDDEN + i]) * state[HIDDEN + i] + sigmoid(seen[i]) * tanhf(seen[2 * HIDDEN + i]);
    after[HIDDEN + i] = cell;
    after[i] = sigmoid(seen[3 * HIDDEN + i]) * tanhf(cell);
  }
}
""",
}
CLIP = """
static inline double clip(double x, double low, double high) { return x < low ? low : x > high ? high : x; }
"""
BETA = """
/* The mean of a Beta between -1 and 1, from the two numbers that a network gives for it. */
static float beta_mean(float x, float y) {
  const float first = (x > 0.0f ? x : 0.0f) + log1pf(expf(-fabsf(x)));
  const float second = (y > 0.0f ? y : 0.0f) + log1pf(expf(-fabsf(y)));
  return (first - second) / (first + second + 2.0f);
}
"""
CHOOSE = """
/* The most probable allowed choice of some; `allowed` may be 0, where none is forbidden. */
static int choose(const float *x, const unsigned char *allowed, int count) {
  int best = -1;
  for (int i = 0; i < count; i++)
    if ((!allowed || allowed[i]) && (best < 0 || x[i] > x[best])) best = i;
  return best < 0 ? 0 : best;
}

/* Their logits; the smallest number where one is forbidden. */
static void open_logits(const float *x, const unsigned char *allowed, int count, float *logits) {
  for (int i = 0; i < count; i++) logits[i] = !allowed || allowed[i] ? x[i] : -FLT_MAX;
}
"""
HEADER = """\
/* A policy of Proximo: {title}. contract.json says what the numbers are.

   Arrays hold the parts of the contract in its order, each in row-major order, choices and switches as whole numbers.
   {logits}{state}It returns 0, or 1 where an observation is not finite (then nothing is written).
   C99 and libm; nothing is allocated, and nothing is kept between calls. */
#ifndef PROXIMO_POLICY_H
#define PROXIMO_POLICY_H

{sizes}
#ifdef __cplusplus
extern "C" {{
#endif

{signature};

#ifdef __cplusplus
}}
#endif
#endif
"""
