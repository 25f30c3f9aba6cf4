#include "peft/mask_schedule.h"

#include <cmath>

#include "base/error.h"

namespace thinwire {

MaskSchedule::MaskSchedule(std::string_view method, const Options& options)
    : is_(options) {
  const auto in_range = [&](std::string_view name, double density) {
    if (density > 0 && density <= 1) return;
    fail<UsageError>("{}: {} must be in (0, 1], got {}", method, name, density);
  };
  in_range("density", is_.density);
  if (is_.until > 0) {
    if (is_.every == 0) {
      fail<UsageError>(
          "{}: remask_until {} ends what never begins; set remask_every too",
          method, is_.until);
    }
    if (drawings() < 1) {
      fail<UsageError>(
          "{}: remask_until {} comes before the first mask is drawn anew, at "
          "step {}",
          method, is_.until, is_.dense_steps + is_.every);
    }
  }
  if (!is_.density_start) return;
  in_range("density_start", *is_.density_start);
  if (is_.until == 0) {
    fail<UsageError>(
        "{}: density_start becomes density while masks are drawn anew; set "
        "remask_every and remask_until, by when",
        method);
  }
}

std::optional<std::int64_t> MaskSchedule::next(std::int64_t step) const {
  if (step < is_.dense_steps) return is_.dense_steps;
  if (is_.every == 0) return std::nullopt;
  const std::int64_t drawing = (step - is_.dense_steps) / is_.every + 1;
  if (is_.until > 0 && drawing > drawings()) return std::nullopt;
  return is_.dense_steps + drawing * is_.every;
}

bool MaskSchedule::draws_at(std::int64_t step) const {
  return step > 0 && next(step - 1) == step;
}

double MaskSchedule::density(std::int64_t step) const {
  if (!is_.density_start) return is_.density;
  const double x = static_cast<double>((step - is_.dense_steps) / is_.every) /
                   static_cast<double>(drawings());
  if (x >= 1) return is_.density;
  const double now =
      is_.density + (*is_.density_start - is_.density) * std::pow(1 - x, 3);
  return std::round(now * 1e9) / 1e9;
}

}  // namespace thinwire
