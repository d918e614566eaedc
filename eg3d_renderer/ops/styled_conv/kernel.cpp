// A layer of StyleGAN2 in one pass, as Winograd's convolution (winograd.h).
//
// A thread takes a block of tiles that its second-level cache holds, transforms it for all input
// channels, and for one panel of output channels after the other multiplies (36 small matrix
// products), transforms back, adds noise and bias, activates and stores. A result's bits do not
// depend on the block that its tile is in.
#include "kernel.h"

#ifdef _OPENMP
#include <omp.h>
#endif

#include "../native/simd.h"
#include "winograd.h"

namespace styled_conv::ISA {
namespace {

constexpr int PANEL = 2 * LANES;               // output channels that are multiplied at a time
constexpr int ROWS = LANES == 16 ? 14 : 6;     // tiles at a time: 2 * ROWS sums fill the registers
constexpr int64_t BLOCK_BYTES = 600 << 10;     // of transformed input: most of a 1 MiB cache
constexpr int MOST_GROUPS = 4;                 // of ROWS tiles in a block

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// A cell: as many channels of one tile at one frequency as fill a vector.
template <typename Element>
constexpr int CELL = LANES * sizeof(float) / sizeof(Element);

template <typename Element>
int64_t cells(const Layer& layer) {
  return divide_up(layer.inputs, CELL<Element>);
}

int64_t panels(const Layer& layer) {  // phases included: they are innermost
  return divide_up(layer.outputs, PANEL) * layer.up * layer.up;
}

template <typename Element>
int64_t panel_size(const Layer& layer) {
  return FREQUENCIES * cells<Element>(layer) * CELL<Element> * PANEL;
}

// ---------------------------------------------------------------------------------- weights

// One vector of output channels, of one input channel, at all frequencies; zeros beyond the last.
void transform_weights(const Preparation& job, const float* weights, const float* matrix,
                       int64_t output, int64_t input, Floats* frequencies) {
  float taps[TAPS][LANES] = {};
  if (input < job.layer.inputs)
    for (int lane = 0; lane < LANES && output + lane < job.layer.outputs; ++lane)
      for (int tap = 0; tap < TAPS; ++tap)
        taps[tap][lane] = weights[((output + lane) * job.layer.inputs + input) * TAPS + tap];
  for (int f = 0; f < FREQUENCIES; ++f) {
    Floats total = {};
    for (int tap = 0; tap < TAPS; ++tap) total += matrix[TAPS * f + tap] * load(taps[tap]);
    frequencies[f] = total;
  }
}

// Where one vector of a panel goes: [36, inputs, PANEL], in bfloat16 [36, inputs / 2, PANEL, 2].
void pack(const Preparation& job, const float* weights, const float* matrix, int64_t panel,
          float* packed) {
  int64_t inputs = cells<float>(job.layer) * CELL<float>;
  int64_t first = panel / (job.layer.up * job.layer.up) * PANEL;
  Floats frequencies[FREQUENCIES];
  for (int64_t i = 0; i < inputs; ++i)
    for (int o = 0; o < PANEL; o += LANES) {
      transform_weights(job, weights, matrix, first + o, i, frequencies);
      for (int f = 0; f < FREQUENCIES; ++f)
        store(packed + (f * inputs + i) * PANEL + o, frequencies[f]);
    }
}

#ifdef __AVX512BF16__
void pack(const Preparation& job, const float* weights, const float* matrix, int64_t panel,
          uint16_t* packed) {
  int64_t inputs = cells<uint16_t>(job.layer) * CELL<uint16_t>;
  int64_t first = panel / (job.layer.up * job.layer.up) * PANEL;
  Floats even[FREQUENCIES], odd[FREQUENCIES];
  for (int64_t i = 0; i < inputs; i += 2)
    for (int o = 0; o < PANEL; o += LANES) {
      transform_weights(job, weights, matrix, first + o, i, even);
      transform_weights(job, weights, matrix, first + o, i + 1, odd);
      for (int f = 0; f < FREQUENCIES; ++f) {
        uint16_t* to = packed + (f * inputs + i) * PANEL + 2 * o;
        Ints pairs = widen(narrow(even[f])) | widen(narrow(odd[f])) << 16;
        std::memcpy(to, &pairs, sizeof pairs);
      }
    }
}
#endif

template <typename Element>
void prepare_as(const Preparation& job) {
  const int phases = job.layer.up * job.layer.up;
  float matrices[4][FREQUENCIES * TAPS];
  for (int phase = 0; phase < phases; ++phase)
    weight_transform(job.layer, job.filter, phase, matrices[phase]);
  int64_t count = panels(job.layer), size = panel_size<Element>(job.layer);
#pragma omp parallel for num_threads(job.threads) schedule(dynamic)
  for (int64_t task = 0; task < job.images * count; ++task) {
    int64_t image = task / count, panel = task % count;
    pack(job, job.weights + image * job.layer.outputs * job.layer.inputs * TAPS,
         matrices[panel % phases], panel, static_cast<Element*>(job.packed) + task * size);
  }
}

// ------------------------------------------------------------------------------- transforms

struct Place {
  int64_t y, x;  // of a tile's first pixel; y is negative where there is no tile
};

// A block's tiles in the cells of `v` [36, groups, cells, ROWS, CELL].
template <typename Element, typename In>
void transform_input(const Job& job, const In* x, const Place* places, int groups, const In* zeros,
                     Element* v) {
  const int64_t inputs = job.layer.inputs, cell_count = cells<Element>(job.layer);
  const int64_t frequency = groups * cell_count * ROWS * CELL<Element>;
  for (int tile = 0; tile < groups * ROWS; ++tile) {
    const In* pixels[WINDOW * WINDOW];
    for (int i = 0; i < WINDOW * WINDOW; ++i) {
      int64_t py = places[tile].y + i / WINDOW - 1, px = places[tile].x + i % WINDOW - 1;
      bool inside = places[tile].y >= 0 && py >= 0 && py < job.height && px >= 0 && px < job.width;
      pixels[i] = inside ? x + (py * job.width + px) * inputs : zeros;
    }
    Element* cell = v + (tile / ROWS * cell_count * ROWS + tile % ROWS) * CELL<Element>;
    for (int64_t c = 0; c < cell_count * CELL<Element>; c += LANES) {
      Floats window[WINDOW][WINDOW], column[WINDOW], row[WINDOW];
      for (int i = 0; i < WINDOW; ++i) {
        for (int j = 0; j < WINDOW; ++j)
          column[j] = load_some(pixels[WINDOW * j + i] + c, inputs - c);
        forward(column, row);
        for (int j = 0; j < WINDOW; ++j) window[j][i] = row[j];
      }
      Element* to = cell + c / CELL<Element> * ROWS * CELL<Element> + c % CELL<Element>;
      for (int j = 0; j < WINDOW; ++j) {
        forward(window[j], row);
        for (int i = 0; i < WINDOW; ++i) store(to + (WINDOW * j + i) * frequency, row[i]);
      }
    }
  }
}

// The layer's tail: noise and bias, leaky ReLU with gain sqrt(2), clamp. A NaN passes all of it.
INLINE Floats finish(Floats y, Floats bias, float noise, float clamp) {
  y += bias + noise;
  y *= y > 0.0f ? all(1.41421356f) : all(0.2f * 1.41421356f);
  y = y > clamp ? all(clamp) : y;
  return y < -clamp ? all(-clamp) : y;
}

// A panel's products `m` [36, tiles, PANEL] to pixels.
template <typename Out>
void transform_output(const Job& job, int64_t panel, const Place* places, int tiles, const float* m,
                      Out* out) {
  const int up = job.layer.up;
  const int phase_y = panel % (up * up) / up, phase_x = panel % up;
  const int64_t width = job.width * up;
  for (int o = 0; o < PANEL; o += LANES) {
    const int64_t output = panel / (up * up) * PANEL + o, count = job.layer.outputs - output;
    if (count <= 0) return;
    const Floats bias = load_some(job.bias + output, count);
    for (int tile = 0; tile < tiles && places[tile].y >= 0; ++tile) {
      Floats half[TILE][WINDOW], column[WINDOW], pixels[TILE];
      for (int i = 0; i < WINDOW; ++i) {
        for (int j = 0; j < WINDOW; ++j)
          column[j] = load(m + ((WINDOW * j + i) * tiles + tile) * PANEL + o);
        backward(column, pixels);
        for (int j = 0; j < TILE; ++j) half[j][i] = pixels[j];
      }
      for (int j = 0; j < TILE && places[tile].y + j < job.height; ++j) {
        backward(half[j], pixels);
        int64_t y = (places[tile].y + j) * up + phase_y;
        for (int i = 0; i < TILE && places[tile].x + i < job.width; ++i) {
          int64_t pixel = y * width + (places[tile].x + i) * up + phase_x;
          float noise = job.noise ? job.noise[pixel] : 0.0f;
          store_some(out + pixel * job.layer.outputs + output,
                     finish(pixels[i], bias, noise, job.clamp), count);
        }
      }
    }
  }
}

// --------------------------------------------------------------------------- multiplication

// sums[row, :] += v[row, k] * u[k, :] for one k: a channel, or in bfloat16 a pair of them.
INLINE void multiply_add(const float* v, const float* u, int k, Floats (&sums)[ROWS][2]) {
  Floats u0 = load(u), u1 = load(u + LANES);
  unroll<ROWS>([&](auto row) __attribute__((always_inline)) {
    Floats factor = all(v[row * LANES + k]);
    sums[row][0] += factor * u0;
    sums[row][1] += factor * u1;
  });
}

#ifdef __AVX512BF16__
INLINE void multiply_add(const uint16_t* v, const uint16_t* u, int k, Floats (&sums)[ROWS][2]) {
  Ints u0 = load(reinterpret_cast<const int32_t*>(u));
  Ints u1 = load(reinterpret_cast<const int32_t*>(u) + LANES);
  unroll<ROWS>([&](auto row) __attribute__((always_inline)) {
    int32_t pair;
    std::memcpy(&pair, v + 2 * (row * LANES + k), sizeof pair);
    sums[row][0] = dot_pairs(sums[row][0], pair - Ints{}, u0);
    sums[row][1] = dot_pairs(sums[row][1], pair - Ints{}, u1);
  });
}
#endif

// m [ROWS, PANEL] = v [cells, ROWS, CELL] times u [cells, CELL, PANEL], at one frequency.
template <typename Element>
void multiply(const Element* v, const Element* u, int64_t cell_count, float* m) {
  constexpr int STEP = PANEL * CELL<Element> / LANES;  // elements of u for one k
  Floats sums[ROWS][2] = {};
  for (int64_t c = 0; c < cell_count; ++c, v += ROWS * CELL<Element>)
    for (int k = 0; k < LANES; ++k, u += STEP) multiply_add(v, u, k, sums);
  unroll<ROWS>([&](auto row) __attribute__((always_inline)) {
    store(m + row * PANEL, sums[row][0]);
    store(m + row * PANEL + LANES, sums[row][1]);
  });
}

// ------------------------------------------------------------------------------------ layer

int64_t tile_count(const Job& job) {
  return divide_up(job.height, TILE) * divide_up(job.width, TILE);
}

// Groups of ROWS tiles in a block: as many as the cache holds and leave work for every thread.
template <typename Element>
int group_count(const Job& job) {
  int64_t group = FREQUENCIES * ROWS * cells<Element>(job.layer) * CELL<Element> * sizeof(Element);
  int64_t most = divide_up(tile_count(job), int64_t(ROWS) * job.threads);
  int64_t groups = BLOCK_BYTES / group < most ? BLOCK_BYTES / group : most;
  return groups < 1 ? 1 : groups > MOST_GROUPS ? MOST_GROUPS : int(groups);
}

// A thread's memory: transformed input, products, and a pixel of zeros.
template <typename Element>
struct Scratch {
  int64_t v, m, zeros;  // bytes

  explicit Scratch(const Job& job) {
    int64_t tiles = group_count<Element>(job) * ROWS;
    int64_t inputs = cells<Element>(job.layer) * CELL<Element>;
    v = FREQUENCIES * tiles * inputs * sizeof(Element);
    m = FREQUENCIES * tiles * PANEL * sizeof(float);
    zeros = divide_up(inputs * sizeof(float), 64) * 64;
  }

  int64_t total() const { return v + m + zeros; }
};

template <typename Element, typename In, typename Out>
void run_block(const Job& job, int64_t image, int64_t first, int groups, char* scratch) {
  const Layer& layer = job.layer;
  const Scratch<Element> sizes(job);
  Element* v = reinterpret_cast<Element*>(scratch);
  float* m = reinterpret_cast<float*>(scratch + sizes.v);
  In* zeros = reinterpret_cast<In*>(scratch + sizes.v + sizes.m);
  std::memset(zeros, 0, sizes.zeros);

  const int tiles = groups * ROWS;
  const int64_t across = divide_up(job.width, TILE), cell_count = cells<Element>(layer);
  Place places[MOST_GROUPS * ROWS];
  for (int t = 0; t < tiles; ++t) {
    int64_t tile = first + t;
    bool exists = tile < tile_count(job);
    places[t] = {exists ? tile / across * TILE : -1, tile % across * TILE};
  }
  const int64_t pixels = job.height * job.width;
  const In* x = static_cast<const In*>(job.x) + image * pixels * layer.inputs;
  Out* out = static_cast<Out*>(job.out) + image * pixels * layer.up * layer.up * layer.outputs;
  transform_input(job, x, places, groups, zeros, v);

  const int64_t u_step = cell_count * CELL<Element> * PANEL;
  const int64_t v_step = cell_count * ROWS * CELL<Element>;
  const Element* u = static_cast<const Element*>(job.packed);
  if (job.packed_images > 1) u += image * panels(layer) * panel_size<Element>(layer);
  for (int64_t panel = 0; panel < panels(layer); ++panel) {
    for (int f = 0; f < FREQUENCIES; ++f, u += u_step)
      for (int group = 0; group < groups; ++group)
        multiply(v + (f * groups + group) * v_step, u, cell_count,
                 m + (f * groups + group) * ROWS * PANEL);
    transform_output(job, panel, places, tiles, m, out);
  }
}

template <typename Element, typename In, typename Out>
void run_as(const Job& job) {
  const int groups = group_count<Element>(job);
  const int64_t blocks = divide_up(tile_count(job), groups * ROWS);
  const int64_t scratch = Scratch<Element>(job).total();
#pragma omp parallel for num_threads(job.threads) schedule(dynamic)
  for (int64_t task = 0; task < job.images * blocks; ++task) {
    int thread = 0;
#ifdef _OPENMP
    thread = omp_get_thread_num();
#endif
    run_block<Element, In, Out>(job, task / blocks, task % blocks * groups * ROWS, groups,
                                job.scratch + thread * scratch);
  }
}

#ifdef __AVX512BF16__
constexpr bool HALF = true;
using Bfloat = uint16_t;
#else
constexpr bool HALF = false;
using Bfloat = float;  // no layer is prepared in halves
#endif

int64_t packed_size(const Layer& layer) {
  return panels(layer) * (layer.half ? panel_size<Bfloat>(layer) : panel_size<float>(layer));
}

int64_t scratch_size(const Job& job) {
  return job.layer.half ? Scratch<Bfloat>(job).total() : Scratch<float>(job).total();
}

void prepare(const Preparation& job) {
  job.layer.half ? prepare_as<Bfloat>(job) : prepare_as<float>(job);
}

void run(const Job& job) {
  if (!job.layer.half)
    run_as<float, float, float>(job);
  else if (job.x_half)
    job.out_half ? run_as<Bfloat, Bfloat, Bfloat>(job) : run_as<Bfloat, Bfloat, float>(job);
  else
    job.out_half ? run_as<Bfloat, float, Bfloat>(job) : run_as<Bfloat, float, float>(job);
}

}  // namespace

const Kernels kernels = {packed_size, scratch_size, prepare, run, HALF};

}  // namespace styled_conv::ISA
