// What every device's kernels must reproduce: Device has the functions of
// DeviceKernels, and to_device() and to_host() for their operands. Once with
// the kernels' bodies on the CPU, once on a GPU.
#pragma once

#include <ATen/ops/empty.h>
#include <ATen/ops/equal.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/tensor.h>
#include <gtest/gtest.h>

#include <cstring>
#include <vector>

#include "ops/device_kernels.h"
#include "ops/dropout.h"
#include "ops/dropout_draw.h"
#include "ops/masked_gradient.h"
#include "ops/masked_parameter.h"
#include "ops/optimizer_pass.h"
#include "ops/test_tensors.h"

namespace thinwire::test {

inline at::Tensor int64s(const std::vector<std::int64_t>& values) {
  return at::tensor(values, at::kLong);
}

// The job but for what lies on the device.
inline DropoutJob dropout_job(double p, const DropoutKey& key) {
  const DropoutDraw draw(p, key);
  DropoutJob job;
  job.key = draw.key;
  job.site = draw.site;
  job.threshold = draw.threshold;
  job.scale = draw.scale;
  return job;
}

template <class Device>
void check_dropout() {
  const std::uint64_t far = 0xfedcba9876543210ull;
  const Layout layout = make_layout({3, 1, 5}, {7, far, 1ull << 33});
  for (const std::int64_t d : {1, 5, 32, 33, 100}) {
    for (const double p : {0.1, 0.75}) {
      const DropoutKey key{.seed = 5, .step = 3, .site = 77};
      const at::Tensor x = normal("x", {layout.rows(), d});
      const at::Tensor in = Device::to_device(x);
      const at::Tensor out = Device::to_device(x);
      const at::Tensor samples = Device::to_device(layout.samples);
      const at::Tensor positions = Device::to_device(layout.positions);
      DropoutJob job = dropout_job(p, key);
      job.out = out.mutable_data_ptr<float>();
      job.in = in.const_data_ptr<float>();
      job.samples = samples.const_data_ptr<std::int64_t>();
      job.positions = positions.const_data_ptr<std::int64_t>();
      job.rows = layout.rows();
      job.d = d;
      Device::dropout(job);
      EXPECT_TRUE(at::equal(Device::to_host(out), dropout(x, p, key, layout)))
          << d << " " << p;
    }
  }
}

template <class Device>
void check_attention_dropout() {
  const Layout layout = make_layout({3, 1, 4}, {7, 9, 1ull << 40});
  const std::int64_t heads = 3, keys = 37, queries = layout.max_length;
  const DropoutKey key{.seed = 5, .step = 3, .site = 78};
  const at::Tensor x = normal("w", {layout.batch(), heads, queries, keys});
  std::vector<std::int64_t> samples, positions, lengths;
  for (std::int64_t b = 0; b < layout.batch(); ++b) {
    const auto i = static_cast<std::size_t>(b);
    lengths.push_back(layout.offsets[i + 1] - layout.offsets[i]);
    for (std::int64_t q = 0; q < queries; ++q) {
      const bool exists = q < lengths.back();
      const std::int64_t row = layout.offsets[i] + q;
      samples.push_back(
          exists ? layout.samples.const_data_ptr<std::int64_t>()[row] : 0);
      positions.push_back(
          exists ? layout.positions.const_data_ptr<std::int64_t>()[row] : 0);
    }
  }
  const at::Tensor in = Device::to_device(x), out = Device::to_device(x);
  const at::Tensor s = Device::to_device(int64s(samples));
  const at::Tensor p = Device::to_device(int64s(positions));
  const at::Tensor l = Device::to_device(int64s(lengths));
  DropoutJob job = dropout_job(0.3, key);
  job.out = out.mutable_data_ptr<float>();
  job.in = in.const_data_ptr<float>();
  job.samples = s.const_data_ptr<std::int64_t>();
  job.positions = p.const_data_ptr<std::int64_t>();
  job.lengths = l.const_data_ptr<std::int64_t>();
  job.rows = layout.batch() * heads * queries;
  job.d = keys;
  job.heads = heads;
  job.queries = queries;
  Device::dropout(job);
  EXPECT_TRUE(
      at::equal(Device::to_host(out), dropout_attention(x, 0.3, key, layout)));
}

// Sums of T products of normal numbers in another order: 2e-5 sqrt(T).
template <class Device>
void check_masked_dots() {
  const std::int64_t out = 40, in = 50;
  for (const std::int64_t tokens : {1, 31, 100}) {
    for (const bool bf16 : {false, true}) {
      for (const bool wide : {false, true}) {
        const auto type = bf16 ? at::kBFloat16 : at::kFloat;
        const at::Tensor index = int64s({0, 3, 49, 50, 700, 999, 1000, 1999})
                                     .to(wide ? at::kLong : at::kInt);
        const MaskPlan plan = make_mask_plan(index, out, in);
        const at::Tensor x = normal("x", {tokens, in}).to(type);
        const at::Tensor dy = normal("dy", {tokens, out}).to(type);
        for (const bool slice : {false, true}) {
          const at::Tensor part = slice ? dy.narrow(1, 1, 19) : dy;
          at::Tensor expected = normal("grad", {plan.size()});
          const at::Tensor grad = Device::to_device(expected);
          masked_gradient_reference(
              expected, plan, x, part,
              {.accumulate = slice, .first_row = slice ? 1 : 0});
          const at::Tensor xt = Device::to_device(x.t().contiguous());
          const at::Tensor dyt = Device::to_device(part.t().contiguous());
          const at::Tensor at = Device::to_device(index);
          Device::masked_dots({.grad = grad.mutable_data_ptr<float>(),
                               .index = at.const_data_ptr(),
                               .wide = wide,
                               .k = plan.size(),
                               .in = in,
                               .x = xt.const_data_ptr(),
                               .dy = dyt.const_data_ptr(),
                               .bf16 = bf16,
                               .tokens = tokens,
                               .first_row = slice ? 1 : 0,
                               .rows = part.size(1),
                               .accumulate = slice});
          EXPECT_LE(largest_difference(Device::to_host(grad), expected),
                    2e-5 * std::sqrt(static_cast<double>(tokens)))
              << tokens << " " << bf16 << " " << wide << " " << slice;
        }
      }
    }
  }
}

template <class Device>
void check_masked_write() {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const auto places : {at::kInt, at::kLong}) {
      const at::Tensor weight = normal("w", {30, 20}).to(type);
      const at::Tensor index = int64s({1, 19, 20, 333, 599}).to(places);
      const at::Tensor values = normal("v", {5});
      const at::Tensor written = Device::to_device(weight);
      const at::Tensor at = Device::to_device(index);
      const at::Tensor from = Device::to_device(values);
      Device::write_masked(masked_write(written, at, 0),
                           from.template const_data_ptr<float>());
      write_masked(weight, values, index);
      EXPECT_TRUE(at::equal(Device::to_host(written), weight));
    }
  }
}

// A vector of which two stretches go into weights, as an optimizer leaves it.
template <class Device, class OnCpu, class OnDevice>
void check_optimizer(const OnCpu& on_cpu, const OnDevice& on_device,
                     bool towards) {
  const std::int64_t n = 1000;
  const at::Tensor index = int64s({5, 6, 77, 500, 2047}).to(at::kInt);
  const std::vector<at::Tensor> weights{normal("a", {2048}),
                                        normal("b", {2048}).to(at::kBFloat16)};
  const std::vector<std::int64_t> begins{0, 995};
  std::vector<at::Tensor> vectors{normal("values", {n}), normal("grads", {n}),
                                  normal("m", {n}), normal("v", {n}).abs(),
                                  normal("towards", {n})};
  std::vector<at::Tensor> there, weights_there;
  for (const at::Tensor& v : vectors) there.push_back(Device::to_device(v));
  const at::Tensor at = Device::to_device(index);
  std::vector<MaskedWrite> here, writes;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights_there.push_back(Device::to_device(weights[i]));
    here.push_back(masked_write(weights[i], index, begins[i]));
    writes.push_back(masked_write(weights_there[i], at, begins[i]));
  }
  const auto bytes = static_cast<std::int64_t>(2 * sizeof(MaskedWrite));
  const at::Tensor table = Device::to_device(
      at::from_blob(writes.data(), {bytes}, at::TensorOptions(at::kByte)));
  const auto p = [&](const std::vector<at::Tensor>& from, std::size_t i) {
    return from[i].mutable_data_ptr<float>();
  };
  for (int step = 0; step < 3; ++step) {
    on_cpu(p(vectors, 0), p(vectors, 1), p(vectors, 2), p(vectors, 3),
           towards ? p(vectors, 4) : nullptr, n, here);
    on_device(
        {.values = p(there, 0),
         .grads = p(there, 1),
         .first = p(there, 2),
         .second = p(there, 3),
         .decay_towards = towards ? p(there, 4) : nullptr,
         .n = n,
         .writes = reinterpret_cast<const MaskedWrite*>(table.const_data_ptr()),
         .writes_count = 2});
  }
  for (const std::size_t i : {0, 2, 3}) {
    EXPECT_TRUE(at::equal(Device::to_host(there[i]), vectors[i])) << i;
  }
  for (const std::size_t i : {0, 1}) {
    EXPECT_TRUE(at::equal(Device::to_host(weights_there[i]), weights[i])) << i;
  }
}

template <class Device>
void check_optimizers() {
  using Writes = std::span<const MaskedWrite>;
  for (const bool towards : {false, true}) {
    const AdamwStep a{.lr = 1e-2,
                      .beta1 = 0.9,
                      .beta2 = 0.99,
                      .epsilon = 1e-8,
                      .weight_decay = 0.1,
                      .step = 4,
                      .grad_scale = 0.37};
    check_optimizer<Device>(
        [&](float* x, const float* g, float* m, float* v, const float* to,
            std::int64_t n, Writes w) { adamw_pass(x, g, m, v, to, n, a, w); },
        [&](const OptimizerJob& j) { Device::adamw(j, adamw_factors(a)); },
        towards);
    const LionStep l{.lr = 1e-2,
                     .beta1 = 0.9,
                     .beta2 = 0.99,
                     .weight_decay = 0.1,
                     .grad_scale = 0.37};
    check_optimizer<Device>(
        [&](float* x, const float* g, float* m, float*, const float* to,
            std::int64_t n, Writes w) { lion_pass(x, g, m, to, n, l, w); },
        [&](const OptimizerJob& j) { Device::lion(j, lion_factors(l)); },
        towards);
    for (const double momentum : {0.0, 0.9}) {
      const SgdStep s{.lr = 1e-2,
                      .momentum = momentum,
                      .weight_decay = 0.1,
                      .grad_scale = 0.37,
                      .nesterov = towards};
      check_optimizer<Device>(
          [&](float* x, const float* g, float* m, float*, const float* to,
              std::int64_t n, Writes w) {
            sgd_pass(x, g, momentum == 0 ? nullptr : m, to, n, s, w);
          },
          [&](OptimizerJob j) {
            if (momentum == 0) j.first = nullptr;
            Device::sgd(j, sgd_factors(s));
          },
          towards);
    }
  }
}

}  // namespace thinwire::test
