// Rows of a table, in fp32.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace thinwire {

// table fp32 or bf16 [V, d]; tokens int64, any shape [...] -> fp32 [..., d].
// The gradient of a bf16 table is summed in fp32 and rounded once, where
// at::embedding rounds every sum. Rows looked up at `padding` give none.
at::Tensor embedding_rows(const at::Tensor& table, const at::Tensor& tokens,
                          std::int64_t padding = -1);

}  // namespace thinwire
