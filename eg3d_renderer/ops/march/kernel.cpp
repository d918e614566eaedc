// Rays through one identity's planes, on a CPU: what reference.py does, a ray at a time.
//
// Texels are premixed, so that a point's hidden units are a weighted sum of texels of 64 channels:
// the loop over those (`decode`) is what the time goes to, and the second layer where colours are
// not linear in it. Whatever there is to know of a point before that (where it is, which texels,
// with what weights) is computed for LANES points of a ray at a time, as is what comes after, from
// densities to weights. What is known of a ray's samples stays in the core's caches.
#include "kernel.h"

#include "../native/simd.h"
#include "activations.h"
#include "taps.h"

namespace march::ISA {
namespace {

constexpr int MOST = 2 * MOST_SAMPLES;
constexpr float CLEAR = 1e-8f;  // of the light: what lies behind is not looked at
constexpr float EMPTY = -1e3f;  // a density that renders nothing; its opposite is solid

constexpr int VECTORS = HIDDEN / LANES;          // of the hidden units of a point
constexpr int PART = VECTORS < 8 ? VECTORS : 8;  // of those, added up together, in registers
constexpr int COLOURS = FEATURES / LANES;        // vectors of its features
constexpr int ROWS = LANES == 16 ? 6 : LANES == 8 ? 3 : 1;  // points that are coloured together

// What is the same for all rays.
struct Decoder {
  alignas(64) float bias1[HIDDEN];
  alignas(64) float density[HIDDEN];           // the second layer's row that makes the density
  alignas(64) float colour[HIDDEN][FEATURES];  // its other rows, transposed
  alignas(64) float colour_bias[FEATURES];
  float density_bias;
  Activations activations;

  explicit Decoder(const Scene& scene) {
    std::memcpy(bias1, scene.bias1, sizeof bias1);
    std::memcpy(density, scene.weight2, sizeof density);
    for (int j = 0; j < FEATURES; ++j)
      for (int i = 0; i < HIDDEN; ++i) colour[i][j] = scene.weight2[(1 + j) * HIDDEN + i];
    std::memcpy(colour_bias, scene.bias2 + 1, sizeof colour_bias);
    density_bias = scene.bias2[0];
  }
};

// A part of a point's hidden units, while texels are added up.
template <typename Texel>
struct Sums {
  Floats sums[PART];

  INLINED void start(const float* bias) {
    unroll<PART>([&](auto i) INLINED { sums[i] = load(bias + i * LANES); });
  }

  INLINED void add(float weight, const Texel* texel) {
    unroll<PART>([&](auto i) INLINED { sums[i] += weight * load(texel + i * LANES); });
  }

  INLINED Floats operator[](int i) const { return sums[i]; }
};

#ifdef __AVX512F__

// Half precision is widened to 512 bits at half the speed of 256 (measured on Zen 4).
template <>
struct Sums<Half> {
  __m256 sums[2 * PART];

  INLINED void start(const float* bias) {
    unroll<2 * PART>([&](auto i) INLINED { sums[i] = _mm256_loadu_ps(bias + i * 8); });
  }

  INLINED void add(float weight, const Half* texel) {
    unroll<2 * PART>([&](auto i) INLINED {
      sums[i] += weight * _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(texel + i * 8)));
    });
  }

  INLINED Floats operator[](int i) const {
    return (Floats)_mm512_insertf32x8(_mm512_castps256_ps512(sums[2 * i]), sums[2 * i + 1], 1);
  }
};

#endif

enum Known : uint8_t { NOTHING, DENSITY, ALL };  // of a sample; all: its hidden units, too

// Marches rays, one after the other, in memory of its own. Samples are numbered as they are drawn:
// the coarse ones, then the fine ones. `order` has those numbers from the nearest to the farthest.
template <typename Texel>
class Marcher {
  // Points that are decoded together. Two, where there are registers for them; but texels in single
  // precision, whose rows are often a power of two apart, then push each other out of the cache.
  static constexpr int POINTS = sizeof(Texel) == 2 && PART < 8 ? 2 : 1;

 public:
  Marcher(const Scene& scene, const Decoder& decoder, const Rays& rays, const Seen& seen)
      : scene_(scene), decoder_(decoder), rays_(rays), seen_(seen) {}

  void march(int64_t ray) {
    const int samples = rays_.samples, total = samples + rays_.fine_samples;
    std::memcpy(origin_, rays_.origins + 3 * ray, sizeof origin_);
    std::memcpy(direction_, rays_.directions + 3 * ray, sizeof direction_);
    std::memset(known_, NOTHING, total);
    coarse_depths(ray);
    for (int i = 0; i < samples; ++i) order_[i] = i;
    interval_weights(samples);
    if (rays_.fine_samples) {
      fine_depths(rays_.fine + ray * rays_.fine_row);
      sort_samples(total);
      interval_weights(total);
    }
    blend(total, seen_.features + ray * FEATURES);
    seen_.opacity[ray] = opacity_;
    seen_.depth[ray] = expected_depth();
    depth_limits(total, seen_.nearest[ray], seen_.farthest[ray]);
  }

 private:
  // Evenly spaced in depth or in disparity, as torch.linspace and the reference round it.
  void coarse_depths(int64_t ray) {
    const int samples = rays_.samples;
    const float start = rays_.start[ray * rays_.limit_step];
    const float end = rays_.end[ray * rays_.limit_step];
    const float* draws = rays_.coarse + ray * rays_.coarse_row;
    const float step = float(1.0 / (samples - 1));
    for (int first = 0; first < samples; first += LANES) {
      const Floats i = ramp() + float(first);
      const Floats up = rounded(i * step), down = 1 - rounded((float(samples - 1) - i) * step);
      const Floats even = i < float(samples / 2) ? up : down;
      Floats draw = {};
      for (int k = 0; k < LANES && first + k < samples; ++k)
        draw[k] = draws[(first + k) * rays_.coarse_step];
      Floats depth;
      if (rays_.disparity) {
        const Floats along = even + rounded(draw * step);
        depth = 1 / (rounded((1 / start) * (1 - along)) + rounded((1 / end) * along));
      } else {
        const float length = end - start;
        depth = start + rounded(even * length) + rounded(draw * (length * step));
      }
      store(depth_ + first, depth);
    }
  }

  // By importance: see the reference, of whose weights weight_[1] is the first.
  void fine_depths(const float* draws) {
    const int last = rays_.samples - 3;  // in the distribution, which starts with 0
    const float* w = weight_;
    alignas(64) float cumulated[MOST_SAMPLES];
    cumulated[0] = 0;
    for (int i = 0; i < last; ++i) {
      const float low = w[i + 2] < w[i + 1] ? w[i + 1] : w[i + 2];
      const float high = w[i + 3] < w[i + 2] ? w[i + 2] : w[i + 3];
      cumulated[i + 1] = cumulated[i] + ((low + high) / 2 + 0.01f + 1e-5f);
    }
    const float total = cumulated[last];
    for (int i = 0; i <= last; ++i) cumulated[i] /= total;
    for (int first = 0; first < rays_.fine_samples; first += LANES) {
      const int count = rays_.fine_samples - first;
      const Floats u = load_some(draws + first, count);
      Ints index = {};  // how many of the distribution are not above u
      for (int i = 0; i <= last; ++i) index = all(cumulated[i]) <= u ? index + 1 : index;
      for (int k = 0; k < LANES && k < count; ++k) {
        const int below = index[k] > 0 ? index[k] - 1 : 0;
        const int above = index[k] < last ? index[k] : last;
        const float width = cumulated[above] - cumulated[below];
        const float start = (depth_[below] + depth_[below + 1]) / 2;
        const float end = (depth_[above] + depth_[above + 1]) / 2;
        const float part = (u[k] - cumulated[below]) / (width < 1e-5f ? 1 : width);
        depth_[rays_.samples + first + k] = start + part * (end - start);
      }
    }
  }

  // A sample's place is the number of those before it: of lesser depth, or as deep and earlier
  // drawn. NaN is last.
  void sort_samples(int count) {
    alignas(64) float key[MOST + LANES];
    for (int first = 0; first < count; first += LANES) {
      const Floats depth = load(depth_ + first);
      store(key + first, depth == depth ? depth : __builtin_inff());
    }
    for (int first = 0; first < count; first += LANES) {
      const int behind = first + LANES < count ? first + LANES : count;
      const Floats mine = load(key + first);
      const Ints number = __builtin_convertvector(ramp(), Ints) + first;
      Ints place = {};
      for (int i = 0; i < first; ++i) place = all(key[i]) <= mine ? place + 1 : place;
      for (int i = first; i < behind; ++i)
        place -= (all(key[i]) < mine) | ((all(key[i]) == mine) & (i < number));
      for (int i = behind; i < count; ++i) place = all(key[i]) < mine ? place + 1 : place;
      for (int i = first; i < behind; ++i) order_[place[i - first]] = i;
    }
  }

  // Of `count` samples in their order, the light that each interval sends: weight_[k] is that of
  // the interval before the k-th sample, 0 before the first and behind the last. The samples are
  // looked at on the way, as far as there is light.
  void interval_weights(int count) {
    float clear = 1;
    int looked = 0, first = 0;
    Floats opacity = {}, moment = {};
    for (; first < count && !(clear < CLEAR); first += LANES) {
      const int behind = first + LANES < count ? first + LANES : count;
      while (looked < behind) looked = look_ahead(looked, count);
      // one more before, which is the first itself, and the last again after the last: intervals
      // of length 0
      for (int k = 0; k < LANES; ++k) {
        const int sample = order_[first + k < count ? first + k : count - 1];
        placed_depth_[1 + first + k] = depth_[sample];
        placed_density_[1 + first + k] = density_[sample];
      }
      if (first == 0) placed_depth_[0] = placed_depth_[1], placed_density_[0] = placed_density_[1];
      const Floats near = load(placed_depth_ + first), far = load(placed_depth_ + first + 1);
      const Floats low = load(placed_density_ + first), high = load(placed_density_ + first + 1);
      const Floats density = min(all(1e38f), softplus((low + high) / 2 - 1));  // 0 * inf is NaN
      const Floats alpha = 1 - exp(-density * (far - near));
      const Floats through = 1 - alpha + 1e-10f;
      Floats before;
      for (int k = 0; k < LANES; ++k) {
        before[k] = clear;
        clear *= first + k ? through[k] : 1;
      }
      const Floats weight = alpha * before;
      store(weight_ + first, weight);
      opacity += weight;
      moment += weight * ((near + far) / 2);
    }
    const int behind = first < count ? first : count;
    for (int k = behind; k <= count; ++k) weight_[k] = 0;
    opacity_ = sum(opacity);
    moment_ = sum(moment);
  }

  // Looks at the next LANES samples in the order, from the k-th on, that nothing is known of.
  // Returns where to go on.
  int look_ahead(int k, int count) {
    int which[LANES], found = 0;
    for (; k < count && found < LANES; ++k)
      if (known_[order_[k]] == NOTHING) which[found++] = order_[k];
    if (found) look(which, found, false);
    return k;
  }

  // Density, and hidden units, of up to LANES samples. Cropped ones are empty whatever is there:
  // their hidden units are left out unless `even_cropped`.
  void look(const int* which, int count, bool even_cropped) {
    Floats depth;
    for (int i = 0; i < LANES; ++i) depth[i] = depth_[which[i < count ? i : count - 1]];
    Point point;
    for (int k = 0; k < 3; ++k) point.at[k] = origin_[k] + rounded(depth * direction_[k]);
    const Ints cropped = (abs(point.at[0]) > scene_.crop) | (abs(point.at[2]) > scene_.crop);
    for (int k = 0; k < 3; ++k) point.at[k] *= scene_.scale;

    int lanes[LANES + POINTS], rows[LANES + POINTS], wanted = 0;
    for (int i = 0; i < count; ++i) {
      known_[which[i]] = cropped[i] && !even_cropped ? DENSITY : ALL;
      if (known_[which[i]] == ALL) lanes[wanted] = i, rows[wanted++] = which[i];
    }
    alignas(64) float density[LANES];
    if (wanted) {
      for (int i = 0; i < POINTS; ++i) lanes[wanted + i] = lanes[0], rows[wanted + i] = MOST;
      find_taps(scene_, point, taps_);
      for (int i = 0; i < wanted; i += POINTS) decode(lanes + i, rows + i, density);
    }
    Floats sigma = cropped ? EMPTY : load(density);
    if (scene_.cull >= 0) sigma = is_thin(sigma, scene_.cull) ? EMPTY : sigma;
    if (scene_.binarize >= 0) sigma = is_thin(sigma, scene_.binarize) ? EMPTY : all(-EMPTY);
    for (int i = 0; i < count; ++i) density_[which[i]] = sigma[i];
  }

  static Ints is_thin(Floats density, float threshold) {
    return 1 - exp(-softplus(density - 1)) < threshold;
  }

  // POINTS lanes of the taps -> their hidden units, in these rows, and densities, by lane.
  INLINED void decode(const int* lanes, const int* rows, float* density) {
    const Texel* texels = static_cast<const Texel*>(scene_.texels);
    Floats densities[POINTS] = {};
    for (int part = 0; part < HIDDEN; part += PART * LANES) {
      Sums<Texel> sums[POINTS];
      for (auto& sum : sums) sum.start(decoder_.bias1 + part);
      for (int tap = 0; tap < taps_.count; ++tap)
        unroll<POINTS>([&](auto p) INLINED {
          const int64_t texel = taps_.texel[tap][lanes[p]];
          sums[p].add(taps_.weight[tap][lanes[p]], texels + texel * HIDDEN + part);
        });
      Floats hidden[POINTS * PART];
      unroll<POINTS * PART>([&](auto i) INLINED { hidden[i] = sums[i / PART][i % PART]; });
      decoder_.activations.softplus(hidden);
      unroll<POINTS * PART>([&](auto i) INLINED {
        const int channel = part + i % PART * LANES;
        store(hidden_[rows[i / PART]] + channel, hidden[i]);
        densities[i / PART] += hidden[i] * load(decoder_.density + channel);
      });
    }
    for (int p = 0; p < POINTS; ++p) density[lanes[p]] = sum(densities[p]) + decoder_.density_bias;
  }

  // The features of a ray: its samples', by the halves of their neighbouring intervals' weights.
  void blend(int count, float* features) {
    // those too small to be seen are left out; colours after a sigmoid are at most about 1
    const float least = scene_.activation == SIGMOID ? 1e-7f : 0;
    int picked = 0;
    for (int k = 0; k < count; ++k) {
      const float share = (weight_[k] + weight_[k + 1]) / 2;
      if (share >= -least && share <= least) continue;
      pick_[picked] = order_[k];
      share_[picked++] = share;
      if (known_[order_[k]] != ALL) look(&order_[k], 1, true);
    }
    Floats sums[COLOURS] = {};
    if (scene_.activation == NONE) {
      blend_hidden(picked, sums);
      for (int v = 0; v < COLOURS; ++v)
        sums[v] += opacity_ * load(decoder_.colour_bias + v * LANES);
    } else if (scene_.activation == SIGMOID) {
      blend_colours<SIGMOID>(picked, sums);
    } else {
      blend_colours<LRELU>(picked, sums);
    }
    for (int v = 0; v < COLOURS; ++v) {
      if (rays_.white_back) sums[v] += 1 - opacity_;
      if (rays_.is_signed) sums[v] = sums[v] * 2 - 1;
      store(features + v * LANES, sums[v]);
    }
  }

  // Without an activation colours are linear in the hidden units: those are blended, and then
  // coloured, once.
  void blend_hidden(int count, Floats (&sums)[COLOURS]) {
    Floats blended[VECTORS] = {};
    for (int i = 0; i < count; ++i)
      unroll<VECTORS>([&](auto v) INLINED {
        blended[v] += share_[i] * load(hidden_[pick_[i]] + v * LANES);
      });
    for (int v = 0; v < VECTORS; ++v) store(hidden_[MOST] + v * LANES, blended[v]);
    const int row = MOST;
    second_layer<1>(&row, sums);
  }

  // Else every sample is coloured, ROWS at a time; the last rows are filled up with nothing.
  template <Activation ACTIVATION>
  void blend_colours(int count, Floats (&blended)[COLOURS]) {
    std::memset(hidden_[MOST], 0, sizeof hidden_[MOST]);
    for (int i = count; i < count + ROWS - 1; ++i) pick_[i] = MOST, share_[i] = 0;
    Floats sums[COLOURS] = {};
    for (int i = 0; i < count; i += ROWS) {
      Floats colours[ROWS * COLOURS];
      second_layer<ROWS>(pick_ + i, colours);
      unroll<ROWS * COLOURS>([&](auto n) INLINED {
        colours[n] += load(decoder_.colour_bias + n % COLOURS * LANES);
      });
      activate<ACTIVATION>(colours);
      unroll<ROWS * COLOURS>([&](auto n) INLINED {
        sums[n % COLOURS] += share_[i + n / COLOURS] * colours[n];
      });
    }
    for (int v = 0; v < COLOURS; ++v)
      blended[v] = ACTIVATION == SIGMOID ? sums[v] * 1.002f - 0.001f * opacity_ : sums[v];
  }

  // A sigmoid's margin can wait until colours are blended.
  template <Activation ACTIVATION, int N>
  INLINED void activate(Floats (&x)[N]) const {
    if constexpr (ACTIVATION == SIGMOID)
      decoder_.activations.sigmoid(x);
    else
      for (Floats& value : x) value = (value < 0 ? 0.2f * value : value) * 1.41421356f;
  }

  // Rows of hidden units -> colours, without bias and activation.
  template <int COUNT>
  INLINED void second_layer(const int* rows, Floats (&colours)[COUNT * COLOURS]) const {
    const float* hidden[COUNT];
    for (int r = 0; r < COUNT; ++r) hidden[r] = hidden_[rows[r]];
    unroll<COUNT * COLOURS>([&](auto n) INLINED { colours[n] = all(0); });
    for (int i = 0; i < HIDDEN; ++i) {
      Floats weight[COLOURS];
      unroll<COLOURS>([&](auto v) INLINED { weight[v] = load(decoder_.colour[i] + v * LANES); });
      unroll<COUNT>([&](auto r) INLINED {
        const Floats unit = all(hidden[r][i]);
        unroll<COLOURS>([&](auto v) INLINED { colours[r * COLOURS + v] += unit * weight[v]; });
      });
    }
  }

  // The mean depth; infinite where all is clear, and then finite, as torch.nan_to_num has it.
  float expected_depth() const {
    const float depth = moment_ / opacity_;
    if (depth != depth) return __builtin_inff();
    return depth > __FLT_MAX__ ? __FLT_MAX__ : depth < -__FLT_MAX__ ? -__FLT_MAX__ : depth;
  }

  // NaN where one of the depths is.
  void depth_limits(int count, float& nearest, float& farthest) {
    for (int i = count; i < count + LANES - 1; ++i) depth_[i] = depth_[0];
    Floats least = all(depth_[0]), most = least, nan = {};
    for (int i = 0; i < count; i += LANES) {
      const Floats depth = load(depth_ + i);
      least = min(least, depth);
      most = max(most, depth);
      nan += depth == depth ? 0 : depth;
    }
    nearest = farthest = depth_[0];
    for (int i = 0; i < LANES; ++i) {
      nearest = least[i] < nearest ? least[i] : nearest;
      farthest = most[i] > farthest ? most[i] : farthest;
    }
    nearest += sum(nan);
    farthest += sum(nan);
  }

  const Scene& scene_;
  const Decoder& decoder_;
  const Rays& rays_;
  const Seen& seen_;

  // of the ray
  float origin_[3], direction_[3];
  float opacity_, moment_;  // the sums of its weights, and of them times their depths
  // by a sample's number
  alignas(64) float depth_[MOST + LANES];
  alignas(64) float density_[MOST];
  alignas(64) float hidden_[MOST + 1][HIDDEN];  // the last is spare
  Known known_[MOST];
  // by its place in the order
  int order_[MOST];
  alignas(64) float placed_depth_[MOST + LANES + 1];
  alignas(64) float placed_density_[MOST + LANES + 1];
  alignas(64) float weight_[MOST + LANES];
  // of those that are blended
  int pick_[MOST + ROWS];
  float share_[MOST + ROWS];

  Taps taps_;
};

// The rays of an image are taken in squares of TILE x TILE, column by column: those of a column
// share texels of the planes that lie along them.
constexpr int TILE = 8;

template <typename Texel>
void render_all(const Scene& scene, const Rays& rays, const Seen& seen, int threads) {
  const Decoder decoder(scene);
  const int64_t side = int64_t(__builtin_sqrt(double(rays.count)) + 0.5);
  const int64_t width = side * side == rays.count ? side : rays.count;
  const int64_t height = width ? rays.count / width : 0;
  const int64_t across = (width + TILE - 1) / TILE, down = (height + TILE - 1) / TILE;
#pragma omp parallel num_threads(threads)
  {
    Marcher<Texel> marcher(scene, decoder, rays, seen);
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < across * down; ++tile) {
      const int64_t top = tile / across * TILE, left = tile % across * TILE;
      for (int64_t x = left; x < left + TILE && x < width; ++x)
        for (int64_t y = top; y < top + TILE && y < height; ++y) marcher.march(y * width + x);
    }
  }
}

}  // namespace

void render(const Scene& scene, const Rays& rays, const Seen& seen, int threads) {
  if (scene.half)
    render_all<Half>(scene, rays, seen, threads);
  else
    render_all<float>(scene, rays, seen, threads);
}

}  // namespace march::ISA
