// A device for tests that is not the CPU, though its memory is: LibTorch's
// place for others' devices, whose every operation is the CPU's on copies.
// Operations that mix it with the CPU throw, as on a GPU, and so do kernels of
// ours that would take its tensors for the CPU's. In one source file of a
// test's program; tensors go to fake_device().
#pragma once

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>

namespace thinwire::fake {

inline at::Device fake_device() { return {at::kPrivateUse1, 0}; }

class Memory : public c10::Allocator {
 public:
  c10::DataPtr allocate(std::size_t bytes) override {
    void* data = bytes == 0 ? nullptr : std::malloc(bytes);
    return {data, data, &std::free, fake_device()};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
};

inline c10::Allocator* memory() {
  static Memory memory;
  return &memory;
}

constexpr c10::DispatchKeySet kKeys(c10::DispatchKey::PrivateUse1);

inline at::Tensor empty(at::IntArrayRef size,
                        std::optional<at::ScalarType> type,
                        std::optional<at::Layout>, std::optional<at::Device>,
                        std::optional<bool>,
                        std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, memory(), kKeys,
                                   type.value_or(at::kFloat), format);
}

inline at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                                std::optional<at::ScalarType> type,
                                std::optional<at::Layout>,
                                std::optional<at::Device>,
                                std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, memory(), kKeys,
                                           type.value_or(at::kFloat));
}

// The same memory as a tensor of the CPU.
inline at::Tensor as_cpu(const at::Tensor& x) {
  if (x.is_cpu()) return x;
  return at::from_blob(const_cast<void*>(x.const_data_ptr()), x.sizes(),
                       x.strides(), at::TensorOptions(x.scalar_type()));
}

inline at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to,
                            bool) {
  as_cpu(to).copy_(as_cpu(from));
  return to;
}

inline at::Tensor copy_from_and_resize(const at::Tensor& from,
                                       const at::Tensor& to) {
  TORCH_CHECK(from.sizes() == to.sizes(), "fake device: no resizing");
  return copy_from(from, to, false);
}

inline at::Tensor& set_storage(at::Tensor& x, at::Storage storage,
                               std::int64_t offset, at::IntArrayRef size,
                               at::IntArrayRef stride) {
  auto* impl = x.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(storage));
  impl->set_sizes_and_strides(size, stride, offset);
  return x;
}

inline at::Tensor view(const at::Tensor& x, at::IntArrayRef size) {
  return at::native::view(x, size);
}
inline at::Tensor reshape_alias(const at::Tensor& x, at::IntArrayRef size,
                                at::IntArrayRef stride) {
  return at::native::as_strided_tensorimpl(x, size, stride);
}
inline at::Tensor as_strided(const at::Tensor& x, at::IntArrayRef size,
                             at::IntArrayRef stride,
                             std::optional<std::int64_t> offset) {
  return at::native::as_strided_tensorimpl(x, size, stride, offset);
}

// Tensors of both in one operation would be a GPU's error; the CPU's numbers
// without dimensions may come along.
inline void on_copies(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto arguments =
      torch::jit::last(*stack, op.schema().arguments().size());
  const std::string name = op.schema().name();
  for (const c10::IValue& value : arguments) {
    if (!value.isTensor() || !value.toTensor().defined()) continue;
    TORCH_CHECK(!value.toTensor().is_cpu() || value.toTensor().dim() == 0,
                "fake device: ", name, " of tensors of the CPU and the device");
  }
  at::native::cpu_fallback(op, stack);
}

// Autograd asks for a device's stream: there is one, and it is never busy.
struct Hooks : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(at::DeviceIndex) const override { return true; }
  at::DeviceIndex deviceCount() const override { return 1; }
  at::DeviceIndex getCurrentDevice() const override { return 0; }
  at::DeviceIndex exchangeDevice(at::DeviceIndex) const override { return 0; }
  at::DeviceIndex maybeExchangeDevice(at::DeviceIndex) const override {
    return 0;
  }
};

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::PrivateUse1> {
  c10::Device exchangeDevice(c10::Device) const override {
    return fake_device();
  }
  c10::Device getDevice() const override { return fake_device(); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
};

inline const bool kRegistered = [] {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
  c10::register_privateuse1_backend("fake");
  return true;
}();

}  // namespace thinwire::fake

C10_REGISTER_GUARD_IMPL(PrivateUse1, thinwire::fake::Guard);

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(
      torch::CppFunction::makeFromBoxedFunction<&thinwire::fake::on_copies>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &thinwire::fake::empty);
  m.impl("empty_strided", &thinwire::fake::empty_strided);
  m.impl("_copy_from", &thinwire::fake::copy_from);
  m.impl("_copy_from_and_resize", &thinwire::fake::copy_from_and_resize);
  m.impl("set_.source_Storage_storage_offset", &thinwire::fake::set_storage);
  m.impl("view", &thinwire::fake::view);
  m.impl("as_strided", &thinwire::fake::as_strided);
  m.impl("_reshape_alias", &thinwire::fake::reshape_alias);
}
