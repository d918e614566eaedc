// Rays through one identity's planes, on a CPU: what reference.py does, a ray at a time.
//
// Texels are premixed, so that a point's hidden units are a weighted sum of texels of 64 channels:
// the loop over those (`first_layer`) is what the time goes to, and the second layer where colours
// are not linear in it. Whatever there is to know of a point before that (where it is, which
// texels, with what weights) is computed for LANES points of a ray at a time, as is what comes
// after, from densities to weights. What is known of a ray's samples stays in the core's caches.
#include "kernel.h"

#include "decoder.h"
#include "marcher.h"

namespace march::ISA {
namespace {

// The rays of an image are taken in tiles, column by column: those of a column share texels of the
// planes that lie along them. Tiles are high, so that those texels serve many rays, but not so high
// that there are fewer tiles than threads.
constexpr int TILE_WIDTH = 4, TILE_HEIGHT = 32;

template <typename Texel>
void render_all(const Scene& scene, const Rays& rays, const Seen& seen, int threads) {
  const Decoder decoder(scene);
  const int64_t side = int64_t(__builtin_sqrt(double(rays.count)) + 0.5);
  const int64_t width = side * side == rays.count ? side : rays.count;
  const int64_t height = width ? rays.count / width : 0;
  const int64_t across = (width + TILE_WIDTH - 1) / TILE_WIDTH;
  const int64_t down = (height + TILE_HEIGHT - 1) / TILE_HEIGHT;
#pragma omp parallel num_threads(threads)
  {
    Marcher<Texel> marcher(scene, decoder, rays, seen);
#pragma omp for schedule(dynamic)
    for (int64_t tile = 0; tile < across * down; ++tile) {
      const int64_t top = tile / across * TILE_HEIGHT, left = tile % across * TILE_WIDTH;
      for (int64_t x = left; x < left + TILE_WIDTH && x < width; ++x)
        for (int64_t y = top; y < top + TILE_HEIGHT && y < height; ++y)
          marcher.march(y * width + x);
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
