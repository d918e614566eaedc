// Where along a ray to look, and in which order its samples lie.
#pragma once

#include "../native/simd.h"
#include "kernel.h"

namespace march::ISA {
namespace {

constexpr int MOST = 2 * MOST_SAMPLES;  // samples of a ray

// Evenly spaced in depth or in disparity, as torch.linspace and the reference round it. Writes
// whole vectors, as all here.
INLINE void coarse_depths(const Rays& rays, int64_t ray, float* depth) {
  const int samples = rays.samples;
  const float start = rays.start[ray * rays.limit_step];
  const float end = rays.end[ray * rays.limit_step];
  const float* draws = rays.coarse + ray * rays.coarse_row;
  const float step = float(1.0 / (samples - 1));
  for (int first = 0; first < samples; first += LANES) {
    const Floats i = ramp() + float(first);
    const Floats up = rounded(i * step), down = 1 - rounded((float(samples - 1) - i) * step);
    const Floats even = i < float(samples / 2) ? up : down;
    const Floats draw = rays.coarse_step ? load_some(draws + first, samples - first) : all(*draws);
    if (rays.disparity) {
      const Floats along = even + rounded(draw * step);
      store(depth + first,
            1 / (rounded((1 / start) * (1 - along)) + rounded((1 / end) * along)));
    } else {
      const float length = end - start;
      store(depth + first, start + rounded(even * length) + rounded(draw * (length * step)));
    }
  }
}

// Whether each is at least the one before; not where one is NaN. `depth` goes on for LANES.
INLINE bool is_ascending(const float* depth, int count) {
  Ints falls = {};
  for (int first = 0; first < count - 1; first += LANES) {
    const Ints number = numbers(first);
    const Ints rises = load(depth + first) <= load(depth + first + 1);
    falls |= ~rises & (number < count - 1);
  }
  return !any(falls);
}

// The samples' numbers, from the nearest to the farthest; NaN is last. A sample's place is the
// number of those before it: of lesser depth, or as deep and of a lesser number.
INLINE void sort_depths(const float* depth, int count, int* order) {
  alignas(64) float key[MOST + LANES];
  for (int first = 0; first < count; first += LANES) {
    const Floats mine = load(depth + first);
    store(key + first, mine == mine ? mine : __builtin_inff());
  }
  for (int first = 0; first < count; first += LANES) {
    const int behind = first + LANES < count ? first + LANES : count;
    const Floats mine = load(key + first);
    const Ints number = numbers(first);
    Ints place = {};
    for (int i = 0; i < first; ++i) place = all(key[i]) <= mine ? place + 1 : place;
    for (int i = first; i < behind; ++i)
      place -= (all(key[i]) < mine) | ((all(key[i]) == mine) & (i < number));
    for (int i = behind; i < count; ++i) place = all(key[i]) < mine ? place + 1 : place;
    for (int i = first; i < behind; ++i) order[place[i - first]] = i;
  }
}

// By importance, from the nearest to the farthest, behind the coarse ones in `depth`. See the
// reference, of whose weights weight[1] is the first.
INLINE void fine_depths(const Rays& rays, int64_t ray, const float* weight, float* depth) {
  const int samples = rays.samples, count = rays.fine_samples;
  const int last = samples - 3;  // in the distribution, which starts with 0
  alignas(64) float middle[MOST_SAMPLES + LANES], cumulated[MOST_SAMPLES + LANES];
  float total = 0;
  cumulated[0] = 0;
  for (int first = 0; first <= last; first += LANES) {
    store(middle + first, (load(depth + first) + load(depth + first + 1)) / 2);
    const Floats own = load(weight + first + 2);
    const Floats low = max(load(weight + first + 1), own);
    const Floats high = max(own, load(weight + first + 3));
    const Floats sums = total + prefix_sums((low + high) / 2 + (0.01f + 1e-5f));
    store(cumulated + first + 1, sums);
    total = sums[LANES - 1];
  }
  total = cumulated[last];
  for (int first = 0; first <= last; first += LANES)
    store(cumulated + first, load(cumulated + first) / total);
  const float* draws = rays.fine + ray * rays.fine_row;
  float* fine = depth + samples;
  for (int first = 0; first < count; first += LANES) {
    const Floats u = load_some(draws + first, count - first);
    Ints index = {};  // how many of the distribution are not above u
    for (int i = 0; i <= last; ++i) index = all(cumulated[i]) <= u ? index + 1 : index;
    const Ints below = index > 0 ? index - 1 : 0, above = index < last ? index : last;
    const Floats low = gather(cumulated, below), width = gather(cumulated, above) - low;
    const Floats start = gather(middle, below), end = gather(middle, above);
    const Floats part = (u - low) / (width < 1e-5f ? 1 : width);
    store(fine + first, start + part * (end - start));
  }
  if (is_ascending(fine, count)) return;
  alignas(64) float drawn[MOST_SAMPLES + LANES];
  int order[MOST_SAMPLES];
  for (int i = 0; i < count; i += LANES) store(drawn + i, load(fine + i));
  sort_depths(drawn, count, order);
  for (int i = 0; i < count; ++i) fine[i] = drawn[order[i]];
}

// The same order as `sort_depths` of coarse and fine samples, both ascending: a fine one comes
// after those before it and the coarse ones that are not deeper; coarse ones take what is left.
INLINE void merge_depths(const float* depth, int samples, int total, int* order) {
  bool is_fine[MOST] = {};
  for (int first = samples; first < total; first += LANES) {
    const Floats mine = load(depth + first);
    Ints place = numbers(first - samples);
    for (int i = 0; i < samples; ++i) place = all(depth[i]) > mine ? place : place + 1;  // or NaN
    alignas(64) int32_t places[LANES];
    store(places, place);
    for (int i = 0; i < LANES && first + i < total; ++i) is_fine[places[i]] = true;
  }
  for (int place = 0, coarse = 0; place < total; ++place) {
    order[place] = is_fine[place] ? samples + place - coarse : coarse;
    coarse += !is_fine[place];
  }
}

// NaN where one of the depths is.
INLINE void depth_limits(float* depth, int count, float& nearest, float& farthest) {
  for (int i = count; i < count + LANES - 1; ++i) depth[i] = depth[0];
  Floats least = all(depth[0]), most = least, nan = {};
  for (int i = 0; i < count; i += LANES) {
    const Floats some = load(depth + i);
    least = min(least, some);
    most = max(most, some);
    nan += some == some ? 0 : some;
  }
  nearest = fold(least, [](auto a, auto b) INLINED { return min(a, b); }) + sum(nan);
  farthest = fold(most, [](auto a, auto b) INLINED { return max(a, b); }) + sum(nan);
}

}  // namespace
}  // namespace march::ISA
