// Straight from the image to the output: zeros between pixels and around them are never multiplied.
// A number's products are always added in the order of the taps, one row of them after the other,
// so that neither threads, nor the rest of the batch, nor the size of a block change a bit.
#include "kernel.h"

#include "../native/simd.h"

namespace upfirdn2d::ISA {
namespace {

constexpr int64_t LEAST = 1 << 14;          // outputs that are worth a thread
constexpr int BLOCK = LANES == 16 ? 4 : 2;  // rows at once, if they share pixels: registers' worth
constexpr int WIDTH = 4;                    // vectors at once

// What one output adds up: rows x columns taps of the filter on as many pixels of the image.
struct Window {
  const float *pixel, *tap;     // the first ones
  int64_t row, column;          // from a pixel to the next, in numbers
  int64_t tap_row, tap_column;  // from a tap to the next
  int rows, columns;
};

INLINE Window window_of(const Job& job, int64_t plane, Taps v, Taps h) {
  const float* image = static_cast<const float*>(job.image);
  const int64_t row = job.x.in * job.channels;
  return {image + (plane * job.y.in + v.pixel) * row + h.pixel * job.channels,
          job.filter + v.tap * job.x.taps + h.tap,
          row, job.channels, int64_t(job.y.up) * job.x.taps, job.x.up, v.count, h.count};
}

// sums[r][n] += tap * read(pixel, n), a vector, for ROWS outputs whose windows are a row apart.
template <int ROWS, int N, typename Read>
INLINE void add_taps(const Window& w, int64_t i, Floats (&sums)[ROWS][N], Read&& read) {
  for (int line = 0; line < w.rows + ROWS - 1; ++line) {
    for (int c = 0; c < w.columns; ++c) {
      const float* pixel = w.pixel + line * w.row + c * w.column + i;
      const float* tap = w.tap + line * w.tap_row + c * w.tap_column;
      Floats values[N];
      unroll<N>([&](auto n) { values[n] = read(pixel, n); });
      unroll<ROWS>([&](auto r) {
        if (ROWS > 1 && (line < r || line >= w.rows + r)) return;
        const Floats weight = all(tap[-r * w.tap_row]);
        unroll<N>([&](auto n) { sums[r][n] += weight * values[n]; });
      });
    }
  }
}

template <int ROWS, int N>
INLINE void vectors(const Window& w, int64_t i, float* out, int64_t out_row) {
  // a row is too short for the processor to see where the next one is
  for (int line = w.rows + ROWS - 1; line < w.rows + 2 * ROWS - 1; ++line)
    for (int n = 0; n < N; ++n) __builtin_prefetch(w.pixel + line * w.row + i + n * LANES);
  Floats sums[ROWS][N] = {};
  add_taps(w, i, sums, [](const float* pixel, int n) { return load(pixel + n * LANES); });
  unroll<ROWS>([&](auto r) {
    unroll<N>([&](auto n) { store(out + r * out_row + i + n * LANES, sums[r][n]); });
  });
}

// Numbers [i, count) of a row whose windows start one number after the other.
INLINE void scalars(const Window& w, int64_t i, int64_t count, float* out) {
  for (; i < count; ++i) {
    float sum = 0;
    for (int r = 0; r < w.rows; ++r)
      for (int c = 0; c < w.columns; ++c)
        sum += w.tap[r * w.tap_row + c * w.tap_column] * w.pixel[r * w.row + c * w.column + i];
    out[i] = sum;
  }
}

// The same for all of [0, count), and for ROWS rows.
template <int ROWS>
INLINE void along(const Window& w, int64_t count, float* out, int64_t out_row) {
  int64_t i = 0;
  for (; i + WIDTH * LANES <= count; i += WIDTH * LANES) vectors<ROWS, WIDTH>(w, i, out, out_row);
  for (; i + LANES <= count; i += LANES) vectors<ROWS, 1>(w, i, out, out_row);
  if (i == count) return;
  if (count >= LANES) return vectors<ROWS, 1>(w, count - LANES, out, out_row);  // some once more
  Window lower = w;
  for (int r = 0; r < ROWS; ++r, lower.pixel += w.row) scalars(lower, i, count, out + r * out_row);
}

// LANES numbers whose windows start `step` numbers apart.
INLINE Floats spread(const Window& w, int step) {
  Floats sums[1][1] = {};
  if (step == 1) {
    add_taps(w, 0, sums, [](const float* pixel, int) { return load(pixel); });
  } else if (step == 2) {
    add_taps(w, 0, sums, [](const float* pixel, int) {
      // the second vector starts a number early, so as not to end beyond the last window
      const auto chosen = [](int lane) { return 2 * lane + (lane >= LANES / 2); };
      return pick(load(pixel), load(pixel + LANES - 1), chosen);
    });
  } else {
    add_taps(w, 0, sums, [&](const float* pixel, int) {
      Floats values;
      for (int lane = 0; lane < LANES; ++lane) values[lane] = pixel[lane * step];
      return values;
    });
  }
  return sums[0][0];
}

// Columns [column, column + LANES * up) of a single channel. Every `up`-th has the same taps.
template <typename At>
INLINE void strided(const Axis& axis, int64_t column, const At& at, float* out) {
  const Floats first = spread(at(column), axis.down);
  if (axis.up == 1) return store(out + column, first);
  if (axis.up == 2) {
    const Floats second = spread(at(column + 1), axis.down);
    store(out + column, pick(first, second, [](int lane) { return lane / 2 + lane % 2 * LANES; }));
    store(out + column + LANES, pick(first, second, [](int lane) {
      return (lane + LANES) / 2 + lane % 2 * LANES;
    }));
    return;
  }
  for (int phase = 0; phase < axis.up; ++phase) {
    const Floats sums = phase ? spread(at(column + phase), axis.down) : first;
    for (int lane = 0; lane < LANES; ++lane) out[column + phase + lane * axis.up] = sums[lane];
  }
}

// Coordinates [first, end) of the output for which no tap falls outside of the image.
struct Interior {
  int64_t first, end;
};

INLINE Interior interior_of(const Axis& axis) {
  const auto is_whole = [&](int64_t output) {
    const int64_t start = output * axis.down - axis.before;  // in the upsampled image
    return start > -axis.up && start + axis.taps <= axis.in * axis.up;
  };
  Interior inside = {0, axis.out};
  while (inside.first < inside.end && !is_whole(inside.first)) ++inside.first;
  while (inside.end > inside.first && !is_whole(inside.end - 1)) --inside.end;
  return inside;
}

// ROWS rows of the output, [x.out, channels] each, from the one whose taps are v.
template <int ROWS>
INLINE void rows_at(const Job& job, int64_t plane, Taps v, const Taps* columns, Interior inside,
                    float* out) {
  const int64_t channels = job.channels, out_row = job.x.out * channels;
  const auto at = [&](int64_t column) { return window_of(job, plane, v, columns[column]); };
  const auto each = [&](int64_t first, int64_t end) {
    for (; first < end; ++first) along<ROWS>(at(first), channels, out + first * channels, out_row);
  };
  const int64_t size = inside.end - inside.first, block = LANES * job.x.up;
  each(0, inside.first);
  if (job.x.up == 1 && job.x.down == 1 && size > 0) {
    along<ROWS>(at(inside.first), size * channels, out + inside.first * channels, out_row);
  } else if (ROWS == 1 && channels == 1 && size >= block) {
    int64_t column = inside.first;
    for (; column + block <= inside.end; column += block) strided(job.x, column, at, out);
    if (column < inside.end) strided(job.x, inside.end - block, at, out);  // some once more
  } else {
    each(inside.first, inside.end);
  }
  each(inside.end, job.x.out);
}

}  // namespace

void run(const Job& job, const Taps* columns, const Taps* rows, int threads) {
  const Interior inside = interior_of(job.x), whole = interior_of(job.y);
  const bool share = job.x.up == 1 && job.x.down == 1 && job.y.up == 1 && job.y.down == 1;
  const int64_t row = job.x.out * job.channels, blocks = (job.y.out + BLOCK - 1) / BLOCK;
  const int64_t worth = (job.planes * job.y.out * row + LEAST - 1) / LEAST;
  if (threads > worth) threads = int(worth);
  if (threads < 1) return;
#pragma omp parallel for num_threads(threads) schedule(static)
  for (int64_t b = 0; b < job.planes * blocks; ++b) {
    const int64_t plane = b / blocks, first = b % blocks * BLOCK;
    float* out = static_cast<float*>(job.out) + plane * job.y.out * row;
    if (share && first >= whole.first && first + BLOCK <= whole.end) {
      rows_at<BLOCK>(job, plane, rows[first], columns, inside, out + first * row);
      continue;
    }
    for (int64_t y = first; y < first + BLOCK && y < job.y.out; ++y)
      rows_at<1>(job, plane, rows[y], columns, inside, out + y * row);
  }
}

}  // namespace upfirdn2d::ISA
