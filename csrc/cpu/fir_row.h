// SPDX-License-Identifier: Apache-2.0
// FIR resampling, one output row at a time: rows are staged in the type computed in, filtered down the columns, then
// along the row by polyphase runs. In nhwc a row element is a vector of channels. Included once per instruction set.
#pragma once

#include "hsr/fir.h"
#include "storage.h"

namespace hsr {
namespace HSR_ISA {

constexpr int kMaxFactor = 64;  // of up and down, checked by the bindings

// out[i] = sum of taps[j] * rows[j][i], or added to out.
template <class A>
static __attribute__((noinline)) void combine(const A* const* rows, const A* taps, int count, bool add,
                                              A* __restrict out, int64_t n) {
  if (count == 0 && !add) {
    for (int64_t i = 0; i < n; i++) out[i] = A(0);
  }
  for (int first = 0; first < count;) {
    const A *r0 = rows[first], t0 = taps[first];
    if (first + 4 <= count) {
      const A *r1 = rows[first + 1], *r2 = rows[first + 2], *r3 = rows[first + 3];
      const A t1 = taps[first + 1], t2 = taps[first + 2], t3 = taps[first + 3];
      if (add) {
        for (int64_t i = 0; i < n; i++) out[i] += t0 * r0[i] + t1 * r1[i] + t2 * r2[i] + t3 * r3[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = t0 * r0[i] + t1 * r1[i] + t2 * r2[i] + t3 * r3[i];
      }
      first += 4;
    } else if (first + 2 <= count) {
      const A *r1 = rows[first + 1], t1 = taps[first + 1];
      if (add) {
        for (int64_t i = 0; i < n; i++) out[i] += t0 * r0[i] + t1 * r1[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = t0 * r0[i] + t1 * r1[i];
      }
      first += 2;
    } else {
      if (add) {
        for (int64_t i = 0; i < n; i++) out[i] += t0 * r0[i];
      } else {
        for (int64_t i = 0; i < n; i++) out[i] = t0 * r0[i];
      }
      first += 1;
    }
    add = true;
  }
}

// Taps by phase: output o = phase + up * m reads pixels pixel + m * down + j, weighted taps[j], j < count.
template <class A>
struct Phase {
  A taps[64];
  int count;
  int64_t pixel;

  void fill(const double* filter, int width, int phase, int up, int down, int64_t pad) {
    const TapRange range = tap_range(phase, up, down, pad);
    pixel = range.pixel;
    count = tap_count(width, range.first, up);
    for (int j = 0; j < count; j++) taps[j] = A(filter[range.first + j * up]);
  }
};

// Filters staged rows along x. A staged row holds the pixels [-left, w + right) of the image, zeros outside, so that no
// tap needs a bounds check; where down exceeds 1 (nchw), it is kept split by phase of down.
template <class A>
struct Horizontal {
  int up, down;
  int64_t w, ow, elements;  // elements per pixel: c in nhwc, 1 in nchw
  int64_t left, right;
  Phase<A> phases[kMaxFactor];

  void plan(const Upfirdn2dParams& p, const double* filter) {
    up = p.up_x, down = p.down_x, w = p.w, ow = p.ow;
    elements = p.layout == Layout::nhwc ? p.c : 1;
    left = right = 0;
    for (int phase = 0; phase < up && phase < ow; phase++) {
      Phase<A>& f = phases[phase];
      f.fill(filter, p.taps_x, phase, up, down, p.pad_x);
      const int64_t last = f.pixel + (ow - 1 - phase) / up * down + f.count - 1;
      if (-f.pixel > left) left = -f.pixel;
      if (last - (w - 1) > right) right = last - (w - 1);
    }
  }

  int64_t staged() const { return (left + w + right) * elements; }
  int64_t split_length() const { return (left + w + right + down - 1) / down; }
  // Bytes of working memory next to the staged row: the split row and the phases' runs.
  int64_t working() const { return (split_length() * down + ow + up + 16) * int64_t(sizeof(A)); }

  void clear_margins(A* row) const {
    std::memset(static_cast<void*>(row), 0, size_t(left * elements) * sizeof(A));
    std::memset(static_cast<void*>(row + (left + w) * elements), 0, size_t(right * elements) * sizeof(A));
  }

  void run(const A* row, A* work, bool add, A* out) const {
    if (elements == 1) {
      planar(row, work, add, out);
    } else {
      interleaved(row, add, out);
    }
  }

 private:
  void interleaved(const A* row, bool add, A* out) const {
    const A* rows[64];
    for (int phase = 0; phase < up; phase++) {
      const Phase<A>& f = phases[phase];
      for (int64_t o = phase, m = 0; o < ow; o += up, m++) {
        const A* first = row + (left + f.pixel + m * down) * elements;
        for (int j = 0; j < f.count; j++) rows[j] = first + j * elements;
        combine(rows, f.taps, f.count, add, out + o * elements, elements);
      }
    }
  }

  void planar(const A* row, A* work, bool add, A* out) const {
    const int64_t length = split_length(), total = left + w + right;
    A* run = work + length * down;
    const A* split = row;
    if (down == 2) {
      A *even = work, *odd = work + length;
      for (int64_t i = 0; i < total / 2; i++) {
        even[i] = row[2 * i];
        odd[i] = row[2 * i + 1];
      }
      if (total % 2) even[total / 2] = row[total - 1];
      split = work;
    } else if (down > 1) {
      for (int q = 0; q < down; q++) {
        const int64_t n = q < total ? (total - q + down - 1) / down : 0;
        for (int64_t i = 0; i < n; i++) work[q * length + i] = row[i * down + q];
      }
      split = work;
    }
    for (int phase = 0; phase < up && phase < ow; phase++) {
      if (up == 1) {
        phase_run(split, length, phases[0], add, out, ow);
      } else {
        phase_run(split, length, phases[phase], false, run + phase * phase_length(), (ow - phase + up - 1) / up);
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
        const A* from = run + phase * phase_length();
        for (int64_t o = phase, m = 0; o < ow; o += up, m++) out[o] = add ? out[o] + from[m] : from[m];
      }
    }
  }

  int64_t phase_length() const { return (ow + up - 1) / up; }

  // Outputs of one phase, one after the other.
  void phase_run(const A* split, int64_t length, const Phase<A>& f, bool add, A* out, int64_t n) const {
    const A* rows[64];
    for (int j = 0; j < f.count; j++) {
      const int64_t at = left + f.pixel + j;
      rows[j] = down > 1 ? split + at % down * length + at / down : split + at;
    }
    combine(rows, f.taps, f.count, add, out, n);
  }
};

// One output row of one plane (nchw) or sample (nhwc). `source` is the plane's first element.
template <class T>
struct FirRow {
  using A = Accumulator<T>;
  const Upfirdn2dParams& p;
  Horizontal<A>* horizontal;  // one, or one per tap row where the filter isn't separable

  // Sets up the phases; shared by all threads, `memory` from storage().
  FirRow(const Upfirdn2dParams& params, void* memory) : p(params), horizontal(static_cast<Horizontal<A>*>(memory)) {
    if (p.separable) {
      horizontal[0].plan(p, p.taps + p.taps_y);
    } else {
      for (int k = 0; k < p.taps_y; k++) horizontal[k].plan(p, p.taps + int64_t(k) * p.taps_x);
    }
  }
  static size_t storage(const Upfirdn2dParams& p) { return sizeof(Horizontal<A>) * size_t(p.separable ? 1 : p.taps_y); }

  // Working memory of one thread, for rows().
  size_t working() const {
    const Horizontal<A>& h = horizontal[0];
    return size_t(h.staged()) * sizeof(A) + 64 + size_t(h.working());
  }

  void row(const T* source, int64_t oy, void* memory, A* out) const {
    A* staged = static_cast<A*>(memory);
    const Horizontal<A>& h = horizontal[0];
    A* work = staged + (h.staged() + 15) / 16 * 16;
    const int64_t line = p.w * h.elements;
    const TapRange range = tap_range(oy, p.up_y, p.down_y, p.pad_y);
    const int count = tap_count(p.taps_y, range.first, p.up_y);
    h.clear_margins(staged);
    A* centre = staged + h.left * h.elements;
    if (p.separable) {
      vertical(source, range, count, line, centre);
      h.run(staged, work, false, out);
      return;
    }
    bool any = false;
    for (int j = 0; j < count; j++) {
      const int64_t y = range.pixel + j;
      if (y < 0 || y >= p.h) continue;
      for (int64_t i = 0; i < line; i += kBlock) {
        const int64_t n = line - i < kBlock ? line - i : kBlock;
        const A* loaded = load(source + y * line + i, centre + i, n);
        if (loaded != centre + i) std::memcpy(centre + i, loaded, size_t(n) * sizeof(A));
      }
      horizontal[range.first + j * p.up_y].run(staged, work, any, out);
      any = true;
    }
    if (!any) std::memset(static_cast<void*>(out), 0, size_t(p.ow * h.elements) * sizeof(A));
  }

 private:
  // The column filter: a weighted sum of the image rows that the taps touch.
  void vertical(const T* source, TapRange range, int count, int64_t line, A* out) const {
    A taps[64];
    const T* sources[64];
    int used = 0;
    for (int j = 0; j < count; j++) {
      const int64_t y = range.pixel + j;
      if (y < 0 || y >= p.h) continue;
      taps[used] = A(p.taps[range.first + j * p.up_y]);
      sources[used++] = source + y * line;
    }
    if constexpr (sizeof(T) == sizeof(A)) {
      combine(sources, taps, used, false, out, line);
    } else {
      constexpr int64_t block = 256;
      A buffer[64][block];
      const A* rows[64];
      for (int64_t i = 0; i < line; i += block) {
        const int64_t n = line - i < block ? line - i : block;
        for (int j = 0; j < used; j++) rows[j] = load(sources[j] + i, buffer[j], n);
        combine(rows, taps, used, false, out + i, n);
      }
    }
  }
};

}  // namespace HSR_ISA
}  // namespace hsr
