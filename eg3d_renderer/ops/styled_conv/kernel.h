// What the kernels of the fused StyleGAN2 layer are told. One set for each instruction set.
#pragma once

#include <cstdint>

namespace styled_conv {

constexpr int FREQUENCIES = 36;  // of a tile: 6 x 6 numbers stand for 4 x 4 pixels and 3 x 3 taps

struct Layer {
  int64_t inputs, outputs;  // channels
  int up;                   // 1 or 2
  int half;                 // 1: weights are prepared in bfloat16, 0: in float
};

struct Preparation {
  Layer layer;
  int64_t images;        // sets of weights
  const float* weights;  // [images, outputs, inputs, 3, 3]
  const float* filter;   // [4, 4], of the upsampling; unused where up is 1
  void* packed;          // [images, packed_size(layer)], bfloat16 or float
  int threads;
};

struct Job {
  Layer layer;
  int64_t images, height, width;  // of the input
  const void* x;                  // [images, height, width, inputs]
  int x_half, out_half;           // 1: bfloat16 (only where layer.half), 0: float
  const void* packed;             // of prepare
  int64_t packed_images;          // 1: every image has the same weights
  const float* bias;              // [outputs]
  const float* noise;             // [height * up, width * up], or null
  float clamp;                    // or infinite
  void* out;                      // [images, height * up, width * up, outputs]
  int threads;
  char* scratch;                  // [threads, scratch_size(job)], aligned to 64 bytes
};

struct Kernels {
  int64_t (*packed_size)(const Layer&);  // elements for one set of weights
  int64_t (*scratch_size)(const Job&);   // bytes for one thread
  void (*prepare)(const Preparation&);
  void (*run)(const Job&);
  bool half;  // whether Layer.half may be 1
};

namespace portable { extern const Kernels kernels; }
namespace avx2 { extern const Kernels kernels; }
namespace avx512 { extern const Kernels kernels; }
namespace avx512bf16 { extern const Kernels kernels; }

}  // namespace styled_conv
