// One ray after the other: its samples, looked at as far as there is light, and what they send.
#pragma once

#include "../native/simd.h"
#include "decoder.h"
#include "depths.h"
#include "kernel.h"
#include "taps.h"

namespace march::ISA {
namespace {

constexpr float CLEAR = 1e-8f;  // of the light: what lies behind is not looked at
constexpr float EMPTY = -1e3f;  // a density that renders nothing; its opposite is solid

// Marches rays in memory of its own. Samples are numbered: the coarse ones, then the fine ones,
// both from the near to the far. `order` has those numbers from the nearest to the farthest.
template <typename Texel>
class Marcher {
 public:
  Marcher(const Scene& scene, const Decoder& decoder, const Rays& rays, const Seen& seen)
      : scene_(scene), decoder_(decoder), rays_(rays), seen_(seen) {}

  void march(int64_t ray) {
    const int samples = rays_.samples, total = samples + rays_.fine_samples;
    std::memcpy(origin_, rays_.origins + 3 * ray, sizeof origin_);
    std::memcpy(direction_, rays_.directions + 3 * ray, sizeof direction_);
    coarse_ = {0, samples}, fine_ = {samples, total};
    coarse_depths(rays_, ray, depth_);
    for (int i = 0; i < samples; i += LANES) store(order_ + i, numbers(i));
    interval_weights(samples);
    if (rays_.fine_samples) {
      fine_depths(rays_, ray, weight_, depth_);
      if (is_ascending(depth_, samples))
        merge_depths(depth_, samples, total, order_);
      else  // from behind a box that the rays miss
        sort_depths(depth_, total, order_);
      interval_weights(total);
    }
    blend(total, seen_.features + ray * FEATURES);
    seen_.opacity[ray] = opacity_;
    seen_.depth[ray] = expected_depth();
    depth_limits(depth_, total, seen_.nearest[ray], seen_.farthest[ray]);
  }

 private:
  // Of `count` samples in their order, the light that each interval sends: weight_[k] is that of
  // the interval before the k-th sample, 0 before the first and behind the last. The samples are
  // looked at on the way, as far as there is light.
  void interval_weights(int count) {
    float clear = 1;
    int first = 0;
    Floats opacity = {}, moment = {}, before_depth = {}, before_density = {};
    for (; first < count && !(clear < CLEAR); first += LANES) {
      // the last one is repeated: intervals of length 0, as is the one before the first
      const Ints place = numbers(first), sample = load(order_ + first);
      const Ints number = place < count ? sample : order_[count - 1];
      look_up_to(number);
      const bool as_numbered = count == rays_.samples && first + LANES <= count;
      const Floats far = as_numbered ? load(depth_ + first) : gather(depth_, number);
      const Floats high = as_numbered ? load(density_ + first) : gather(density_, number);
      if (first == 0) before_depth = all(far[0]), before_density = all(high[0]);
      const Floats near = after(before_depth, far), low = after(before_density, high);
      before_depth = far, before_density = high;
      const Floats density = min(all(1e38f), softplus((low + high) / 2 - 1));  // 0 * inf is NaN
      const Floats alpha = 1 - exp(-density * (far - near));
      const Floats through = place > 0 ? 1 - alpha + 1e-10f : 1;
      const Floats products = prefix_products(through);
      const Floats weight = alpha * (clear * after(all(1), products));
      clear *= products[LANES - 1];
      store(weight_ + first, weight);
      opacity += weight;
      moment += weight * ((near + far) / 2);
    }
    const int behind = first < count ? first : count;
    for (int k = behind; k <= count; k += LANES) store(weight_ + k, Floats{});
    opacity_ = sum(opacity);
    moment_ = sum(moment);
  }

  // Coarse or fine samples, and how far they have been looked at.
  struct Stretch {
    int next, end;
  };

  // Looks at these samples, if it has not been done, and at those before them.
  void look_up_to(Ints sample) {
    const Ints coarse = sample < rays_.samples ? sample : -1;
    const auto greater = [](auto a, auto b) INLINED { return a > b ? a : b; };
    look_on(coarse_, fold(coarse, greater));
    look_on(fine_, fold(sample, greater));
  }

  void look_on(Stretch& stretch, int sample) {
    for (; stretch.next <= sample && stretch.next < stretch.end; stretch.next += LANES)
      look(stretch.next, stretch.end - stretch.next, false);
  }

  // Density, and hidden units, of up to LANES samples from the first on. Cropped ones are empty
  // whatever is there: their hidden units are left out unless `even_cropped`.
  void look(int first, int most, bool even_cropped) {
    const int count = most < LANES ? most : LANES;
    const Floats depth = load(depth_ + first);
    Point point;
    for (int k = 0; k < 3; ++k) point.at[k] = origin_[k] + rounded(depth * direction_[k]);
    const Ints cropped = (abs(point.at[0]) > scene_.crop) | (abs(point.at[2]) > scene_.crop);
    for (int k = 0; k < 3; ++k) point.at[k] *= scene_.scale;

    constexpr int STEP = POINTS<Texel>;
    alignas(64) int32_t lanes[LANES + 2 * STEP];
    int wanted = count;
    store(lanes, numbers(0));
    std::memset(decoded_ + first, true, count);
    if (!even_cropped && any(cropped)) wanted = leave_out(cropped, count, lanes, decoded_ + first);
    Floats sigma = {};
    if (wanted) {
      for (int i = 0; i < 2 * STEP; ++i) lanes[wanted + i] = lanes[wanted - 1];
      find_taps(scene_, point, taps_);
      Floats densities[LANES] = {};
      for (int i = 0; i < wanted; i += STEP)
        first_layer(decoder_, static_cast<const Texel*>(scene_.texels), taps_, lanes + i,
                    hidden_ + first, densities);
      sigma = sums(densities) + decoder_.density_bias;
    }
    sigma = cropped ? EMPTY : sigma;
    if (scene_.cull >= 0) sigma = is_thin(sigma, scene_.cull) ? EMPTY : sigma;
    if (scene_.binarize >= 0) sigma = is_thin(sigma, scene_.binarize) ? EMPTY : all(-EMPTY);
    store_some(density_ + first, sigma, count);
  }

  // The lanes that are not cropped, and for each whether it is one. Returns how many there are.
  static int leave_out(Ints cropped, int count, int32_t* lanes, bool* decoded) {
    alignas(64) int32_t out[LANES];
    store(out, cropped);
    int wanted = 0;
    for (int i = 0; i < count; ++i) {
      decoded[i] = !out[i];
      lanes[wanted] = i;
      wanted += !out[i];
    }
    return wanted;
  }

  static Ints is_thin(Floats density, float threshold) {
    return 1 - exp(-softplus(density - 1)) < threshold;
  }

  // The features of a ray: its samples', by the halves of their neighbouring intervals' weights.
  void blend(int count, float* features) {
    const int picked = pick_samples(count);
    for (int i = 0; i < picked; ++i)
      if (!decoded_[order_[i]]) look(order_[i], 1, true);
    Floats sums[COLOURS] = {};
    if (scene_.activation == NONE) {
      blend_hidden(picked, sums);
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

  // Samples' shares, and in `order_` their numbers, without those that are too small to be seen.
  // Returns how many are left.
  int pick_samples(int count) {
    // colours after a sigmoid are at most about 1
    const float least = scene_.activation == SIGMOID ? 1e-7f : 0;
    int picked = 0;
    for (int first = 0; first < count; first += LANES) {
      const Floats share = (load(weight_ + first) + load(weight_ + first + 1)) / 2;
      const Ints sample = load(order_ + first);
      const Ints left_out = (abs(share) <= least) | (numbers(first) >= count);
      store(share_ + picked, share);
      store(order_ + picked, sample);
      picked += any(left_out) ? close_up(left_out, share_ + picked, order_ + picked) : LANES;
    }
    return picked;
  }

  // Moves those of LANES elements to the front that are not left out, and returns their number.
  static int close_up(Ints left_out, float* shares, int32_t* samples) {
    alignas(64) int32_t out[LANES];
    store(out, left_out);
    int kept = 0;
    for (int i = 0; i < LANES; ++i) {
      shares[kept] = shares[i];
      samples[kept] = samples[i];
      kept += !out[i];
    }
    return kept;
  }

  // Without an activation colours are linear in the hidden units: those are blended, and then
  // coloured, once.
  void blend_hidden(int count, Floats (&blended)[COLOURS]) {
    Floats units[VECTORS] = {};
    for (int i = 0; i < count; ++i)
      unroll<VECTORS>([&](auto v) INLINED {
        units[v] += share_[i] * load(hidden_[order_[i]] + v * LANES);
      });
    for (int v = 0; v < VECTORS; ++v) store(hidden_[MOST] + v * LANES, units[v]);
    for (int v = 0; v < COLOURS; ++v)
      blended[v] = opacity_ * load(decoder_.colour_bias + v * LANES);
    const float* hidden[1] = {hidden_[MOST]};
    second_layer(decoder_, hidden, blended);
  }

  // Else every sample is coloured, ROWS at a time; the last rows are filled up with nothing.
  template <Activation ACTIVATION>
  void blend_colours(int count, Floats (&blended)[COLOURS]) {
    std::memset(hidden_[MOST], 0, sizeof hidden_[MOST]);
    for (int i = count; i < count + ROWS - 1; ++i) order_[i] = MOST, share_[i] = 0;
    for (int i = 0; i < count; i += ROWS) {
      const float* hidden[ROWS];
      for (int r = 0; r < ROWS; ++r) hidden[r] = hidden_[order_[i + r]];
      Floats colours[ROWS * COLOURS];
      unroll<ROWS * COLOURS>([&](auto n) INLINED {
        colours[n] = load(decoder_.colour_bias + n % COLOURS * LANES);
      });
      second_layer(decoder_, hidden, colours);
      activate<ACTIVATION>(colours);
      unroll<ROWS * COLOURS>([&](auto n) INLINED {
        blended[n % COLOURS] += share_[i + n / COLOURS] * colours[n];
      });
    }
    if constexpr (ACTIVATION == SIGMOID)
      for (Floats& sum : blended) sum = sum * 1.002f - 0.001f * opacity_;
  }

  // A sigmoid's margin can wait until colours are blended.
  template <Activation ACTIVATION, int N>
  INLINED void activate(Floats (&x)[N]) const {
    if constexpr (ACTIVATION == SIGMOID)
      decoder_.activations.sigmoid(x);
    else
      for (Floats& value : x) value = (value < 0 ? 0.2f * value : value) * 1.41421356f;
  }

  // The mean depth; infinite where all is clear, and then finite, as torch.nan_to_num has it.
  float expected_depth() const {
    const float depth = moment_ / opacity_;
    if (depth != depth) return __builtin_inff();
    return depth > __FLT_MAX__ ? __FLT_MAX__ : depth < -__FLT_MAX__ ? -__FLT_MAX__ : depth;
  }

  const Scene& scene_;
  const Decoder& decoder_;
  const Rays& rays_;
  const Seen& seen_;

  // of the ray
  float origin_[3], direction_[3];
  float opacity_, moment_;  // the sums of its weights, and of them times their depths
  Stretch coarse_, fine_;
  // by a sample's number; LANES more, since vectors are read and written whole
  alignas(64) float depth_[MOST + LANES];
  alignas(64) float density_[MOST];
  alignas(64) float hidden_[MOST + 1][HIDDEN];  // the last is spare
  bool decoded_[MOST];                          // has hidden units, of those looked at
  // by its place in the order
  alignas(64) int32_t order_[MOST + LANES];
  alignas(64) float weight_[MOST + 2 * LANES];
  alignas(64) float share_[MOST + LANES];

  Taps taps_;
};

}  // namespace
}  // namespace march::ISA
