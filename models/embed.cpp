// The front of a stack: tokens, what attachments insert between them, and
// where each stands.
#define TORCH_ASSERT_ONLY_METHOD_OPERATORS
#include "base/error.h"
#include "models/embedded_stream.h"
#include "models/kv_cache.h"
#include "models/side_network.h"
#include "models/transformer.h"
#include "ops/embedding.h"
#include "ops/reference.h"

namespace thinwire {

at::Tensor Transformer::embed(const Embeddings& e, const at::Tensor& tokens,
                              EmbeddedStream& stream, ForwardContext& ctx) {
  at::Tensor x = look_up(e.words, tokens, ctx, e.padding);
  if (config_.embedding_scale != 1) x = x.mul(config_.embedding_scale);
  x = insert_embeddings(e.site, std::move(x), stream, ctx);
  return e.positions < 0 ? x : add_positions(x, e.positions, ctx);
}

at::Tensor Transformer::enter(const Embeddings& e, at::Tensor x, double p,
                              const ForwardContext& ctx) {
  if (ctx.states != nullptr) ctx.states->embeddings = x;
  return drop(x, p, e.dropout, ctx);
}

at::Tensor Transformer::look_up(int weight, const at::Tensor& tokens,
                                const ForwardContext& ctx,
                                std::int64_t padding) const {
  const auto [table, watch, scale, axes] = parameters_.use(weight, ctx);
  THINWIRE_ASSERT(!scale.defined(), "rows of int8 '{}' are looked up",
                  parameters_.slot(weight).name);
  const at::Tensor rows = beside(tokens, table);
  at::Tensor y = embedding_rows(table, rows, padding);
  return watch == nullptr ? y : watch->look_up(y, rows, *ctx.layout, padding);
}

at::Tensor Transformer::insert_embeddings(int site, at::Tensor embeddings,
                                          EmbeddedStream& stream,
                                          ForwardContext& ctx) {
  if (ctx.cache != nullptr && !ctx.cache->empty()) {
    ctx.cache->begin(stream.layout);  // what is inserted has been read
    return embeddings;
  }
  for (const auto& a : at_site(site).embedding) {
    if (const std::int64_t n = a->rows(); n > 0) {
      const at::Tensor vectors = a->vectors(embeddings, ctx);
      const std::int64_t at = a->insert_at();
      THINWIRE_ASSERT(vectors.size(-2) == n, "{} vectors, {} rows announced",
                      vectors.size(-2), n);
      embeddings = insert_into(embeddings, vectors, stream.layout, at);
      stream.insert(n, at);
    }
    if (a->free_positions() > 0) stream.shift(a->free_positions());
    if (a->pools_first_row()) stream.pool_first_row();
    ctx.layout = &stream.layout;
  }
  if (ctx.cache != nullptr) ctx.cache->begin(stream.layout);
  return embeddings;
}

at::Tensor Transformer::add_positions(const at::Tensor& x, int table,
                                      const ForwardContext& ctx) const {
  const Layout& layout = *ctx.layout;
  const std::int64_t last = layout.contiguous_positions
                                ? layout.max_length - 1
                                : layout.positions.max().item<std::int64_t>();
  if (last >= config_.max_positions) {
    fail<UsageError>(
        "a sequence has {} tokens (prompts included), the model takes {} "
        "(set data.max_tokens when preparing the data)",
        last + 1, config_.max_positions);
  }
  at::Tensor rows = layout.positions;
  if (config_.first_position > 0) rows = rows.add(config_.first_position);
  return x.add(look_up(table, rows, ctx));
}

}  // namespace thinwire
