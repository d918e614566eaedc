// The decoder's activations, of N vectors at once.
#pragma once

#include "../native/simd.h"

namespace march::ISA {
namespace {

#ifdef __AVX512F__

// A smooth function on [0, 15.7]: polynomials around 0, 0.5, 1, ... 15.5, whose coefficients are
// looked up within registers. Half of the work of exp and log1p. Beyond 15.7 it is constant.
class Curve {
 public:
  template <typename Function>
  explicit Curve(Function f) {
    for (int piece = 0; piece < 32; ++piece) {
      // through 5 Chebyshev nodes: Newton's divided differences, then powers of x
      double x[5], y[5], powers[5] = {};
      for (int i = 0; i < 5; ++i) {
        x[i] = 0.25 * __builtin_cos((i + 0.5) * 3.14159265358979 / 5);
        y[i] = f(piece / 2.0 + x[i]);
      }
      for (int order = 1; order < 5; ++order)
        for (int i = 4; i >= order; --i) y[i] = (y[i] - y[i - 1]) / (x[i] - x[i - order]);
      for (int i = 4; i >= 0; --i) {
        for (int power = 4; power > 0; --power)
          powers[power] = powers[power - 1] - x[i] * powers[power];
        powers[0] = y[i] - x[i] * powers[0];
      }
      for (int power = 0; power < 5; ++power)
        coefficients_[power][piece / LANES][piece % LANES] = float(powers[power]);
    }
  }

  // N vectors at once, so that a coefficient's table is fetched once for all of them.
  template <int N>
  INLINED void operator()(Floats (&x)[N]) const {
    Floats piece[N], rest[N];
    unroll<N>([&](auto n) INLINED {
      const Floats inside = min(all(15.74f), x[n]);  // in this order, NaN stays
      piece[n] = inside + 6291456.0f;  // 1.5 * 2^22: rounds to halves, counted in the last bits
      rest[n] = inside - (piece[n] - 6291456.0f);
    });
    unroll<5>([&](auto i) INLINED {
      const Floats(&table)[2] = coefficients_[4 - i];
      const __m512 low = (__m512)table[0], high = (__m512)table[1];
      unroll<N>([&](auto n) INLINED {
        const Floats c = (Floats)_mm512_permutex2var_ps(low, (__m512i)piece[n], high);
        x[n] = i ? x[n] * rest[n] + c : c;
      });
    });
  }

 private:
  Floats coefficients_[5][2];
};

struct Activations {
  Curve tail{[](double x) { return __builtin_log1p(__builtin_exp(-x)); }};
  // from the middle: the other half is its mirror image
  Curve rise{[](double x) { return 1 / (1 + __builtin_exp(-x)) - 0.5; }};

  // To 2e-7, where the other softplus is as precise for small results.
  template <int N>
  INLINED void softplus(Floats (&x)[N]) const {
    Floats y[N];
    unroll<N>([&](auto n) INLINED { y[n] = abs(x[n]); });
    tail(y);
    unroll<N>([&](auto n) INLINED { x[n] = max(all(0), x[n]) + y[n]; });
  }

  // A few at a time, for want of registers.
  template <int N>
  INLINED void sigmoid(Floats (&x)[N]) const {
    constexpr int FEW = N % 6 ? N : 6;
    unroll<N / FEW>([&](auto part) INLINED {
      Floats y[FEW];
      unroll<FEW>([&](auto n) INLINED { y[n] = abs(x[part * FEW + n]); });
      rise(y);
      unroll<FEW>([&](auto n) INLINED {
        Floats& value = x[part * FEW + n];
        value = 0.5f + (Floats)((Ints)y[n] | ((Ints)value & INT32_MIN));
      });
    });
  }
};

#else

struct Activations {
  template <int N>
  INLINED void softplus(Floats (&x)[N]) const {
    for (Floats& value : x) value = ::softplus(value);
  }

  template <int N>
  INLINED void sigmoid(Floats (&x)[N]) const {
    for (Floats& value : x) value = ::sigmoid(value);
  }
};

#endif

}  // namespace
}  // namespace march::ISA
