#include <algorithm>

#include "kernels.h"
#include "maths.h"

// y = LayerNorm(r + dropout(x)), the end of each sublayer of a post-LN transformer; r may be absent.

namespace realm {
namespace {

struct Norm {
  float eps, rate;
  void attributes(Attributes& a) {
    eps = a.number("eps");
    rate = a.number("rate");
  }
  /** x [R, H], residual [R, H] or empty, gain, bias [H], seed → y [R, H], the normalised sum z (empty if it equals x), mean and 1/σ [R, 2]. */
  void run(Call& call) {
    const auto x = call.in(0), residual = call.in(1), gain = call.in(2), bias = call.in(3);
    const auto seed = call.in<int32_t>(4);
    const int64_t R = x.dim(0), H = x.dim(1);
    const bool sum = residual.size() > 0 || R == 0;
    expect(gain.size() == H && bias.size() == H && (!sum || residual.size() == R * H) && (sum || rate == 0),
           "layer norm: shapes do not fit");
    const auto y = call.out(0, {R, H});
    const auto z = call.out(1, sum ? std::vector<int64_t>{R, H} : std::vector<int64_t>{0});
    const auto stats = call.out(2, {R, 2});
    const Dropout drop(rate, seed.data[0]);
    parallelRanges(R, std::max<long>(1, 16384 / H), [&](long from, long to) {
      for (long r = from; r < to; r++) {
        const float* row = x.data + r * H;
        if (sum) {
          float* out = z.data + r * H;
          const float* other = residual.data + r * H;
          if (drop.on()) {
            const uint32_t key = drop.row(r);
#pragma omp simd
            for (int64_t h = 0; h < H; h++) out[h] = other[h] + row[h] * drop.factor(key, h);
          } else {
#pragma omp simd
            for (int64_t h = 0; h < H; h++) out[h] = other[h] + row[h];
          }
          row = out;
        }
        // In double: the mean of equal numbers is that number, and the result 0. A float sum rounds, and what is left
        // over, divided by the root of a small epsilon, is not small.
        double total = 0;
#pragma omp simd reduction(+ : total)
        for (int64_t h = 0; h < H; h++) total += row[h];
        const float mean = total / H;
        float squares = 0;
#pragma omp simd reduction(+ : squares)
        for (int64_t h = 0; h < H; h++) squares += (row[h] - mean) * (row[h] - mean);
        const float inverse = 1 / std::sqrt(squares / H + eps);
        stats.data[2 * r] = mean;
        stats.data[2 * r + 1] = inverse;
        float* out = y.data + r * H;
#pragma omp simd
        for (int64_t h = 0; h < H; h++) out[h] = (row[h] - mean) * inverse * gain.data[h] + bias.data[h];
      }
    });
  }
};

struct NormGrad {
  float rate;
  void attributes(Attributes& a) { rate = a.number("rate"); }
  /** dy, z [R, H], stats [R, 2], gain [H], seed → dz [R, H], dx (empty without dropout: it equals dz), dgain, dbias. */
  void run(Call& call) {
    const auto dy = call.in(0), z = call.in(1), stats = call.in(2), gain = call.in(3);
    const auto seed = call.in<int32_t>(4);
    const int64_t R = z.dim(0), H = z.dim(1);
    expect(dy.size() == R * H && stats.size() == 2 * R && gain.size() == H, "layer norm gradient: shapes do not fit");
    const Dropout drop(rate, seed.data[0]);
    const auto dz = call.out(0, {R, H});
    const auto dx = call.out(1, drop.on() ? std::vector<int64_t>{R, H} : std::vector<int64_t>{0});
    const auto dgain = call.out(2, {H}), dbias = call.out(3, {H});
    const int pieces = static_cast<int>(std::max<int64_t>(1, std::min<int64_t>(2 * threads(), R * H / 16384)));
    auto partial = room(2 * H * pieces);
    parallel(pieces, [&](int piece) {
      float* dg = partial.get() + 2 * H * piece;
      float* db = dg + H;
      std::fill(dg, dg + 2 * H, 0.0f);
      for (int64_t r = R * piece / pieces; r < R * (piece + 1) / pieces; r++) {
        const float *d = dy.data + r * H, *row = z.data + r * H;
        const float mean = stats.data[2 * r], inverse = stats.data[2 * r + 1];
        float along = 0, total = 0;
#pragma omp simd reduction(+ : along, total)
        for (int64_t h = 0; h < H; h++) {
          const float g = d[h] * gain.data[h];
          const float n = (row[h] - mean) * inverse;
          along += g * n;
          total += g;
          dg[h] += d[h] * n;
          db[h] += d[h];
        }
        along /= H;
        total /= H;
        float* out = dz.data + r * H;
#pragma omp simd
        for (int64_t h = 0; h < H; h++)
          out[h] = (d[h] * gain.data[h] - total - (row[h] - mean) * inverse * along) * inverse;
        if (drop.on()) {
          const uint32_t key = drop.row(r);
          float* dropped = dx.data + r * H;
#pragma omp simd
          for (int64_t h = 0; h < H; h++) dropped[h] = out[h] * drop.factor(key, h);
        }
      }
    });
    for (int64_t h = 0; h < H; h++) {
      float g = 0, b = 0;
      for (int p = 0; p < pieces; p++) {
        g += partial[2 * H * p + h];
        b += partial[2 * H * p + H + h];
      }
      dgain.data[h] = g;
      dbias.data[h] = b;
    }
  }
};

}  // namespace

void registerNorm() {
  registerOp<Norm>("RealmNorm", {"x: float", "residual: float", "gain: float", "bias: float", "seed: int32"},
                   {"y: float", "z: float", "stats: float"}, {"eps: float", "rate: float"});
  registerOp<NormGrad>("RealmNormGrad", {"dy: float", "z: float", "stats: float", "gain: float", "seed: int32"},
                       {"dz: float", "dx: float", "dgain: float", "dbias: float"}, {"rate: float"});
}

}  // namespace realm
