#include <algorithm>

#include "kernels.h"
#include "maths.h"

// Word, position and segment embeddings, summed.

namespace realm {
namespace {

void checkIds(const Tensor<const int32_t>& ids, int64_t rows) {
  expectWithin(ids, 0, rows, "embeddings: an id is outside of its table");
}

struct Embeddings {
  void attributes(Attributes&) {}
  /** tables [V, H], [positionRows, H], [2, H]; ids, positions, segments [S] → [S, H]. */
  void run(Call& call) {
    const auto word = call.in(0), position = call.in(1), segment = call.in(2);
    const auto ids = call.in<int32_t>(3), positions = call.in<int32_t>(4), segments = call.in<int32_t>(5);
    const int64_t S = ids.size(), H = word.dim(1);
    expect(positions.size() == S && segments.size() == S && position.dim(1) == H && segment.dim(1) == H,
           "embeddings: shapes do not fit");
    checkIds(ids, word.dim(0));
    checkIds(positions, position.dim(0));
    checkIds(segments, segment.dim(0));
    const auto out = call.out(0, {S, H});
    parallelRanges(S, std::max<long>(1, 16384 / H), [&](long from, long to) {
      for (long s = from; s < to; s++) {
        const float *w = word.data + ids.data[s] * H, *p = position.data + positions.data[s] * H,
                    *g = segment.data + segments.data[s] * H;
        float* row = out.data + s * H;
#pragma omp simd
        for (int64_t h = 0; h < H; h++) row[h] = w[h] + p[h] + g[h];
      }
    });
  }
};

struct EmbeddingsGrad {
  int words, positionRows;
  void attributes(Attributes& a) {
    words = a.integer("words");
    positionRows = a.integer("positionRows");
  }
  /** dy [S, H]; ids, positions, segments [S] → gradients of the three tables. */
  void run(Call& call) {
    const auto dy = call.in(0);
    const auto ids = call.in<int32_t>(1), positions = call.in<int32_t>(2), segments = call.in<int32_t>(3);
    const int64_t S = dy.dim(0), H = dy.dim(1);
    expect(ids.size() == S && positions.size() == S && segments.size() == S, "embeddings gradient: shapes do not fit");
    for (const auto& [list, rows] : {std::pair{&ids, words}, {&positions, positionRows}, {&segments, 2}})
      checkIds(*list, rows);
    const auto word = call.out(0, {words, H}), position = call.out(1, {positionRows, H}), segment = call.out(2, {2, H});
    parallelRanges(words, std::max<long>(1, 65536 / H),
                   [&](long f, long t) { std::fill(word.data + f * H, word.data + t * H, 0.0f); });
    std::fill(position.data, position.data + positionRows * H, 0.0f);
    std::fill(segment.data, segment.data + 2 * H, 0.0f);
    // Each thread adds its own columns: tokens share rows.
    parallelRanges(H, 32, [&](long from, long to) {
      for (int64_t s = 0; s < S; s++) {
        const float* d = dy.data + s * H;
        float *w = word.data + ids.data[s] * H, *p = position.data + positions.data[s] * H,
              *g = segment.data + segments.data[s] * H;
#pragma omp simd
        for (long h = from; h < to; h++) {
          w[h] += d[h];
          p[h] += d[h];
          g[h] += d[h];
        }
      }
    });
  }
};

}  // namespace

void registerEmbeddings() {
  registerOp<Embeddings>("RealmEmbeddings",
                         {"word: float", "position: float", "segment: float", "ids: int32", "positions: int32",
                          "segments: int32"},
                         {"y: float"}, {});
  registerOp<EmbeddingsGrad>("RealmEmbeddingsGrad",
                             {"dy: float", "ids: int32", "positions: int32", "segments: int32"},
                             {"dword: float", "dposition: float", "dsegment: float"},
                             {"words: int", "positionRows: int"});
}

}  // namespace realm
