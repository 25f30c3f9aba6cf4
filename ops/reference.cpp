#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/reference.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <optional>

namespace thinwire {
namespace {

std::atomic<bool> on_now{false};

struct Copy {
  c10::weak_intrusive_ptr<c10::TensorImpl, c10::UndefinedTensorImpl> of;
  at::Tensor copy;
};
constexpr std::size_t kCopies = 16;

}  // namespace

bool reference_ops() { return on_now; }
void set_reference_ops(bool on) { on_now = on; }

bool plain_twin(const at::Tensor& x) { return reference_ops() || !x.is_cpu(); }

at::Tensor beside(const at::Tensor& t, const at::Tensor& x) {
  if (t.device() == x.device()) return t;
  thread_local std::array<std::optional<Copy>, kCopies> copies;
  thread_local std::size_t next = 0;
  for (const auto& c : copies) {
    if (c && !c->of.expired() &&
        c->of._unsafe_get_target() == t.unsafeGetTensorImpl() &&
        c->copy.device() == x.device()) {
      return c->copy;
    }
  }
  at::Tensor copy = t.to(x.device());
  copies[next].emplace(Copy{decltype(Copy::of)(t.getIntrusivePtr()), copy});
  next = (next + 1) % kCopies;
  return copy;
}

}  // namespace thinwire
