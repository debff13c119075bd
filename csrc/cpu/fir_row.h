// SPDX-License-Identifier: Apache-2.0
// FIR resampling, one output row at a time: input rows are staged in the accumulation type, filtered along the columns,
// then along the row, phase by phase. In nhwc a row consists of vectors of channels. Included once per instruction set.
#pragma once

#include "hsr/fir.h"
#include "storage.h"

namespace hsr {
namespace HSR_ISA {

// The bindings check both.
constexpr int kMaxFactor = 64;
constexpr int kMaxTaps = 64;

// out[i] = sum of taps[j] * rows[j][i], or added to out.
template <class A>
static __attribute__((noinline)) void combine(const A* const* rows, const A* taps, int count, bool add,
                                              A* __restrict out, int64_t n) {
  if (count == 0 && !add) {
    for (int64_t i = 0; i < n; i++) out[i] = A(0);
  }
  for (int tap = 0; tap < count;) {
    const A *r0 = rows[tap], t0 = taps[tap];
    if (tap + 4 <= count) {
      const A *r1 = rows[tap + 1], *r2 = rows[tap + 2], *r3 = rows[tap + 3];
      const A t1 = taps[tap + 1], t2 = taps[tap + 2], t3 = taps[tap + 3];
      if (add) {
        for (int64_t i = 0; i < n; i++) out[i] += t0 * r0[i] + t1 * r1[i] + t2 * r2[i] + t3 * r3[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = t0 * r0[i] + t1 * r1[i] + t2 * r2[i] + t3 * r3[i];
      }
      tap += 4;
    } else if (tap + 2 <= count) {
      const A *r1 = rows[tap + 1], t1 = taps[tap + 1];
      if (add) {
        for (int64_t i = 0; i < n; i++) out[i] += t0 * r0[i] + t1 * r1[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = t0 * r0[i] + t1 * r1[i];
      }
      tap += 2;
    } else {
      if (add) {
        for (int64_t i = 0; i < n; i++) out[i] += t0 * r0[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = t0 * r0[i];
      }
      tap += 1;
    }
    add = true;
  }
}

// The taps of a phase: output phase + up * m is the sum of taps[j] * pixels[pixel + m * down + j] over j < count.
template <class A>
struct Phase {
  A taps[kMaxTaps];
  int count;
  int64_t pixel;

  void fill(const double* filter, int width, int phase, int up, int down, int64_t pad) {
    const TapRange range = tap_range(phase, up, down, pad);
    pixel = range.pixel;
    count = tap_count(width, range.tap, up);
    for (int j = 0; j < count; j++) taps[j] = A(filter[range.tap + j * up]);
  }
};

// Filters staged rows along x. A staged row holds the pixels [-left_margin, w + right_margin) with zeros outside the
// image, so that taps need no bounds checks. Where down exceeds 1 in nchw, it is split into its phases of down.
template <class A>
struct Horizontal {
  int up, down;
  int64_t w, ow;
  // Elements of a pixel: c in nhwc, 1 in nchw.
  int64_t elements;
  int64_t left_margin, right_margin;
  Phase<A> phases[kMaxFactor];

  void plan(const Upfirdn2dParams& p, const double* filter) {
    up = p.up_x, down = p.down_x, w = p.w, ow = p.ow;
    elements = p.layout == Layout::nhwc ? p.c : 1;
    left_margin = right_margin = 0;
    for (int phase = 0; phase < up && phase < ow; phase++) {
      Phase<A>& f = phases[phase];
      f.fill(filter, p.taps_x, phase, up, down, p.pad_x);
      const int64_t last_pixel = f.pixel + (ow - 1 - phase) / up * down + f.count - 1;
      if (-f.pixel > left_margin) left_margin = -f.pixel;
      if (last_pixel - (w - 1) > right_margin) right_margin = last_pixel - (w - 1);
    }
  }

  int64_t staged_elements() const { return (left_margin + w + right_margin) * elements; }
  int64_t split_length() const { return (left_margin + w + right_margin + down - 1) / down; }
  // The working memory besides the staged row: the split row and the outputs of the phases.
  int64_t working_bytes() const { return (split_length() * down + ow + up + 16) * int64_t(sizeof(A)); }

  void clear_margins(A* row) const {
    std::memset(static_cast<void*>(row), 0, size_t(left_margin * elements) * sizeof(A));
    std::memset(static_cast<void*>(row + (left_margin + w) * elements), 0, size_t(right_margin * elements) * sizeof(A));
  }

  void run(const A* row, A* work, bool add, A* out) const {
    if (elements == 1) {
      run_nchw(row, work, add, out);
    } else {
      run_nhwc(row, add, out);
    }
  }

 private:
  void run_nhwc(const A* row, bool add, A* out) const {
    const A* rows[kMaxTaps];
    for (int phase = 0; phase < up; phase++) {
      const Phase<A>& f = phases[phase];
      for (int64_t o = phase, m = 0; o < ow; o += up, m++) {
        const A* pixels = row + (left_margin + f.pixel + m * down) * elements;
        for (int j = 0; j < f.count; j++) rows[j] = pixels + j * elements;
        combine(rows, f.taps, f.count, add, out + o * elements, elements);
      }
    }
  }

  void run_nchw(const A* row, A* work, bool add, A* out) const {
    const int64_t length = split_length(), total = left_margin + w + right_margin;
    A* run = work + length * down;
    const A* phases_of_row = row;
    if (down == 2) {
      A *even = work, *odd = work + length;
      for (int64_t i = 0; i < total / 2; i++) {
        even[i] = row[2 * i];
        odd[i] = row[2 * i + 1];
      }
      if (total % 2) even[total / 2] = row[total - 1];
      phases_of_row = work;
    } else if (down > 1) {
      for (int q = 0; q < down; q++) {
        const int64_t n = q < total ? (total - q + down - 1) / down : 0;
        for (int64_t i = 0; i < n; i++) work[q * length + i] = row[i * down + q];
      }
      phases_of_row = work;
    }
    for (int phase = 0; phase < up && phase < ow; phase++) {
      if (up == 1) {
        phase_run(phases_of_row, length, phases[0], add, out, ow);
      } else {
        phase_run(phases_of_row, length, phases[phase], false, run + phase * phase_length(),
                  (ow - phase + up - 1) / up);
      }
    }
    if (up == 2 && !add) {
      const A *even = run, *odd = run + phase_length();
      const int64_t pairs = ow / 2;
      for (int64_t m = 0; m < pairs; m++) {
        out[2 * m] = even[m];
        out[2 * m + 1] = odd[m];
      }
      if (ow % 2) out[ow - 1] = even[pairs];
    } else if (up > 1) {
      for (int phase = 0; phase < up && phase < ow; phase++) {
        const A* outputs = run + phase * phase_length();
        for (int64_t o = phase, m = 0; o < ow; o += up, m++) out[o] = add ? out[o] + outputs[m] : outputs[m];
      }
    }
  }

  int64_t phase_length() const { return (ow + up - 1) / up; }

  // Computes the outputs of one phase, which lie next to each other.
  void phase_run(const A* row, int64_t length, const Phase<A>& f, bool add, A* out, int64_t n) const {
    const A* rows[kMaxTaps];
    for (int j = 0; j < f.count; j++) {
      const int64_t pixel = left_margin + f.pixel + j;
      rows[j] = down > 1 ? row + pixel % down * length + pixel / down : row + pixel;
    }
    combine(rows, f.taps, f.count, add, out, n);
  }
};

template <class A>
static size_t plan_bytes(const Upfirdn2dParams& p) {
  return sizeof(Horizontal<A>) * size_t(p.separable ? 1 : p.taps_y);
}

// Sets up filters along x in `memory` of plan_bytes(): one if the filter is separable, otherwise one per row of taps.
template <class A>
static Horizontal<A>* plan_rows(const Upfirdn2dParams& p, void* memory) {
  Horizontal<A>* rows = static_cast<Horizontal<A>*>(memory);
  if (p.separable) {
    rows[0].plan(p, p.taps + p.taps_y);
  } else {
    for (int k = 0; k < p.taps_y; k++) rows[k].plan(p, p.taps + int64_t(k) * p.taps_x);
  }
  return rows;
}

// Computes single output rows of a plane (nchw) or a sample (nhwc), whose first element is `source`.
template <class T>
struct FirRow {
  using A = Accumulator<T>;
  const Upfirdn2dParams& p;
  // One if the filter is separable, otherwise one per row of taps.
  const Horizontal<A>* horizontal;

  // The phases, which all threads share, stand in `memory` of storage_bytes().
  FirRow(const Upfirdn2dParams& params, void* memory) : p(params), horizontal(plan_rows<A>(params, memory)) {}
  static size_t storage_bytes(const Upfirdn2dParams& p) { return plan_bytes<A>(p); }

  // The working memory of one thread.
  size_t working_bytes() const {
    const Horizontal<A>& h = horizontal[0];
    return size_t(h.staged_elements()) * sizeof(A) + 64 + size_t(h.working_bytes());
  }

  void row(const T* source, int64_t oy, void* memory, A* out) const {
    A* staged = static_cast<A*>(memory);
    const Horizontal<A>& h = horizontal[0];
    A* work = staged + (h.staged_elements() + 15) / 16 * 16;
    const int64_t line = p.w * h.elements;
    const TapRange range = tap_range(oy, p.up_y, p.down_y, p.pad_y);
    const int count = tap_count(p.taps_y, range.tap, p.up_y);
    h.clear_margins(staged);
    A* centre = staged + h.left_margin * h.elements;
    if (p.separable) {
      vertical(source, range, count, line, centre);
      h.run(staged, work, false, out);
      return;
    }
    bool add = false;
    for (int j = 0; j < count; j++) {
      const int64_t y = range.pixel + j;
      if (y < 0 || y >= p.h) continue;
      for (int64_t i = 0; i < line; i += kBlock) {
        const int64_t n = line - i < kBlock ? line - i : kBlock;
        const A* pixels = load(source + y * line + i, centre + i, n);
        if (pixels != centre + i) std::memcpy(centre + i, pixels, size_t(n) * sizeof(A));
      }
      horizontal[range.tap + j * p.up_y].run(staged, work, add, out);
      add = true;
    }
    if (!add) std::memset(static_cast<void*>(out), 0, size_t(p.ow * h.elements) * sizeof(A));
  }

 private:
  // Filters along the columns: a weighted sum of the image rows that taps meet.
  void vertical(const T* source, TapRange range, int count, int64_t line, A* out) const {
    A taps[kMaxTaps];
    const T* sources[kMaxTaps];
    int count_inside = 0;
    for (int j = 0; j < count; j++) {
      const int64_t y = range.pixel + j;
      if (y < 0 || y >= p.h) continue;
      taps[count_inside] = A(p.taps[range.tap + j * p.up_y]);
      sources[count_inside++] = source + y * line;
    }
    if constexpr (sizeof(T) == sizeof(A)) {
      combine(sources, taps, count_inside, false, out, line);
    } else {
      constexpr int64_t block = 256;
      A buffer[kMaxTaps][block];
      const A* rows[kMaxTaps];
      for (int64_t i = 0; i < line; i += block) {
        const int64_t n = line - i < block ? line - i : block;
        for (int j = 0; j < count_inside; j++) rows[j] = load(sources[j] + i, buffer[j], n);
        combine(rows, taps, count_inside, false, out + i, n);
      }
    }
  }
};

}  // namespace HSR_ISA
}  // namespace hsr
