#include "peft/residue.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <vector>

#include "base/error.h"

namespace thinwire {
namespace {

constexpr std::string_view kResidue = "residue.";
constexpr std::string_view kIndex = ".index";
constexpr std::string_view kValues = ".values";

struct Sparse {
  std::vector<std::int64_t> at;  // ascending
  std::vector<float> values;
};

// `over` wins where both have a number.
Sparse merged(const Sparse& under, const Sparse& over) {
  Sparse out;
  std::size_t i = 0, j = 0;
  while (i < under.at.size() || j < over.at.size()) {
    const bool take_over = j < over.at.size() &&
                           (i == under.at.size() || over.at[j] <= under.at[i]);
    if (take_over) {
      if (i < under.at.size() && under.at[i] == over.at[j]) ++i;
      out.at.push_back(over.at[j]);
      out.values.push_back(over.values[j++]);
    } else {
      out.at.push_back(under.at[i]);
      out.values.push_back(under.values[i++]);
    }
  }
  return out;
}

Sparse without(const Sparse& from, const Positions& gone) {
  Sparse out;
  std::int64_t j = 0;
  for (std::size_t i = 0; i < from.at.size(); ++i) {
    while (j < gone.size() && gone[j] < from.at[i]) ++j;
    if (j < gone.size() && gone[j] == from.at[i]) continue;
    out.at.push_back(from.at[i]);
    out.values.push_back(from.values[i]);
  }
  return out;
}

Sparse sparse(const Positions& at, const float* values) {
  Sparse out;
  for (std::int64_t i = 0; i < at.size(); ++i) {
    out.at.push_back(at[i]);
    out.values.push_back(values[i]);
  }
  return out;
}

Residue to_tensors(const Sparse& s, at::ScalarType index_type) {
  const auto n = static_cast<std::int64_t>(s.at.size());
  Residue out{at::empty({n}, index_type), at::empty({n}, at::kFloat)};
  for (std::int64_t i = 0; i < n; ++i) {
    const auto k = static_cast<std::size_t>(i);
    if (index_type == at::kInt) {
      out.index.mutable_data_ptr<std::int32_t>()[i] =
          static_cast<std::int32_t>(s.at[k]);
    } else {
      out.index.mutable_data_ptr<std::int64_t>()[i] = s.at[k];
    }
    out.values.mutable_data_ptr<float>()[i] = s.values[k];
  }
  return out;
}

// What stays of the tensor `o` trained, given what was there before.
Residue after(const Residue* before, const DeltaEntry& o, const float* values) {
  if (o.kind == EntryKind::kDense) {
    at::Tensor whole = at::empty(o.shape, at::kFloat);
    std::memcpy(whole.mutable_data_ptr<float>(), values, whole.nbytes());
    return {{}, whole};
  }
  const Positions at(o);
  if (before != nullptr && !before->index.defined()) {
    Residue out{{}, before->values.clone()};
    float* p = out.values.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < at.size(); ++i) p[at[i]] = values[i];
    return out;
  }
  Sparse s = sparse(at, values);
  if (before != nullptr) {
    s = merged(sparse(Positions(before->index),
                      before->values.const_data_ptr<float>()),
               s);
  }
  return to_tensors(s, o.index.scalar_type());
}

}  // namespace

Positions::Positions(const DeltaEntry& e) : size_(e.count) {
  if (e.kind == EntryKind::kDense) return;
  *this = Positions(e.index);
}

Positions::Positions(const at::Tensor& index) : size_(index.numel()) {
  if (index.scalar_type() == at::kInt) {
    narrow_ = index.const_data_ptr<std::int32_t>();
  } else {
    wide_ = index.const_data_ptr<std::int64_t>();
  }
}

std::map<std::string, Residue> residues(
    const std::map<std::string, at::Tensor>& constants) {
  std::map<std::string, Residue> out;
  for (const auto& [name, tensor] : constants) {
    if (!name.starts_with(kResidue)) continue;
    const std::string rest = name.substr(kResidue.size());
    const auto stem = [&](std::string_view tail) {
      return rest.substr(0, rest.size() - tail.size());
    };
    const auto has = [&](const std::string& target, std::string_view tail) {
      return constants.contains(std::string(kResidue) + target +
                                std::string(tail));
    };
    if (rest.ends_with(kIndex) && has(stem(kIndex), kValues)) {
      out[stem(kIndex)].index = tensor;
    } else if (rest.ends_with(kValues) && has(stem(kValues), kIndex)) {
      out[stem(kValues)].values = tensor;
    } else {
      out[rest].values = tensor;
    }
  }
  for (const auto& [target, r] : out) {
    if (!r.index.defined()) continue;
    if (r.index.sizes() != r.values.sizes() || r.index.dim() != 1 ||
        r.values.scalar_type() != at::kFloat ||
        (r.index.scalar_type() != at::kInt &&
         r.index.scalar_type() != at::kLong)) {
      fail<UsageError>("delta: the residue of '{}' is malformed", target);
    }
  }
  return out;
}

void carry_residues(const Delta& old, Delta& next) {
  std::map<std::string, Residue> kept = residues(old.constants());
  const auto* values = old.values().const_data_ptr<float>();
  for (const DeltaEntry& o : old.entries()) {
    if (o.target.empty()) continue;
    const auto it = kept.find(o.target);
    kept[o.target] =
        after(it == kept.end() ? nullptr : &it->second, o, values + o.offset);
  }
  for (const DeltaEntry& e : next.entries()) {
    const auto it = kept.find(e.target);
    if (e.target.empty() || it == kept.end()) continue;
    if (e.kind == EntryKind::kDense) {
      kept.erase(it);
    } else if (it->second.index.defined()) {
      const Sparse rest =
          without(sparse(Positions(it->second.index),
                         it->second.values.const_data_ptr<float>()),
                  Positions(e));
      it->second = to_tensors(rest, it->second.index.scalar_type());
    }
  }
  for (auto& [target, r] : kept) {
    const std::string name = std::string(kResidue) + target;
    if (!r.index.defined()) {
      next.set_constant(name, std::move(r.values));
    } else if (r.index.numel() > 0) {
      next.set_constant(name + std::string(kIndex), std::move(r.index));
      next.set_constant(name + std::string(kValues), std::move(r.values));
    }
  }
}

}  // namespace thinwire
