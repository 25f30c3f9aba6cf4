// Move-only owner of a C handle. Traits: `type`, `null()`, `release(type)
// noexcept`. Serves MPI_Comm, hid_t, file descriptors and the like.
#pragma once

#include <utility>

namespace thinwire {

template <class Traits>
class UniqueHandle {
 public:
  using type = typename Traits::type;

  UniqueHandle() noexcept : value_(Traits::null()) {}
  explicit UniqueHandle(type value) noexcept : value_(value) {}
  UniqueHandle(UniqueHandle&& other) noexcept : value_(other.detach()) {}
  UniqueHandle& operator=(UniqueHandle&& other) noexcept {
    if (this != &other) reset(other.detach());
    return *this;
  }
  UniqueHandle(const UniqueHandle&) = delete;
  UniqueHandle& operator=(const UniqueHandle&) = delete;
  ~UniqueHandle() { reset(); }

  type get() const noexcept { return value_; }
  explicit operator bool() const noexcept { return value_ != Traits::null(); }
  type detach() noexcept { return std::exchange(value_, Traits::null()); }
  void reset(type value = Traits::null()) noexcept {
    if (value_ != Traits::null()) Traits::release(value_);
    value_ = value;
  }

 private:
  type value_;
};

}  // namespace thinwire
