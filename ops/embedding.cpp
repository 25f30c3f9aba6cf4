#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "ops/embedding.h"

#include <ATen/ops/embedding.h>
#include <ATen/ops/embedding_dense_backward.h>

#include <vector>

#include "ops/backward.h"
#include "ops/reference.h"

namespace thinwire {

at::Tensor embedding_rows(const at::Tensor& table, const at::Tensor& tokens,
                          std::int64_t padding) {
  const at::Tensor rows = beside(tokens, table);
  if (table.scalar_type() == at::kFloat) {
    return at::embedding(table, rows, padding);
  }
  return with_backward(
      at::embedding(table.detach(), rows, padding).to(at::kFloat), {table},
      [rows, padding, count = table.size(0), type = table.scalar_type()](
          const at::Tensor& grad, const std::vector<bool>&) {
        return std::vector<at::Tensor>{
            at::embedding_dense_backward(grad, rows, count, padding, false)
                .to(type)};
      },
      "embedding_rows");
}

}  // namespace thinwire
