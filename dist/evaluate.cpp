#include "dist/evaluate.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <optional>
#include <span>
#include <type_traits>

#include "base/error.h"
#include "comm/communicator.h"
#include "data/decode.h"
#include "dist/together.h"

namespace thinwire {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Batches lie at fixed places in storage order, whatever the number of ranks,
// so that every number is computed the same way; rank r takes every P-th.
struct Deal {
  std::int64_t samples, batch_size, batches;

  Deal(const ShardFolder& folder, const EvalOptions& options)
      : samples(folder.index().samples), batch_size(options.batch_size) {
    if (samples <= 0) {
      fail<UsageError>("{}: has no samples to evaluate", folder.path());
    }
    if (batch_size < 1) {
      fail<UsageError>("eval.batch_size: must be at least 1, got {}",
                       batch_size);
    }
    if (options.samples > 0) samples = std::min(samples, options.samples);
    batches = (samples + batch_size - 1) / batch_size;
  }
  std::int64_t begin(std::int64_t batch) const { return batch * batch_size; }
  std::int64_t count(std::int64_t batch) const {
    return std::min(batch_size, samples - begin(batch));
  }
};

// What evaluation reads besides samples where a task judges texts.
class Texts {
 public:
  explicit Texts(const ShardFolder& folder)
      : folder_(folder), decoder_(folder.path() + "/vocab.json") {}

  void judge(Task& task, const std::vector<Prediction>& texts,
             std::int64_t first, std::vector<EvalRow>& rows) const {
    const auto references =
        folder_.references(first, static_cast<std::int64_t>(rows.size()));
    if (references.empty()) {
      fail<UsageError>(
          "{}: has no references, which task.metrics needs (prepare it as "
          "text_to_text, or as lm with prompts)",
          folder_.path());
    }
    for (std::size_t i = 0; i < rows.size(); ++i) {
      if (!texts[i].tokens) {
        fail<UsageError>(
            "{}: sample {} has no prompt, so there is no text to judge; "
            "task.metrics needs one",
            folder_.path(), texts[i].sample);
      }
      rows[i].figures =
          task.text_figures(decoder_.text(*texts[i].tokens), references[i]);
    }
  }

 private:
  const ShardFolder& folder_;
  TextDecoder decoder_;
};

template <class T>
void append(std::vector<std::byte>& bytes, const T* data, std::size_t count) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto* begin = reinterpret_cast<const std::byte*>(data);
  bytes.insert(bytes.end(), begin, begin + count * sizeof(T));
}

template <class T>
void take(const std::vector<std::byte>& bytes, std::size_t& cursor, T* data,
          std::size_t count) {
  THINWIRE_ASSERT(cursor + count * sizeof(T) <= bytes.size(),
                  "{} + {} of {} bytes", cursor, count * sizeof(T),
                  bytes.size());
  if (count > 0) std::memcpy(data, bytes.data() + cursor, count * sizeof(T));
  cursor += count * sizeof(T);
}

template <class T>
void append_list(std::vector<std::byte>& bytes, const std::vector<T>& list) {
  const std::uint64_t n = list.size();
  append(bytes, &n, 1);
  append(bytes, list.data(), list.size());
}

template <class T>
void take_list(const std::vector<std::byte>& bytes, std::size_t& cursor,
               std::vector<T>& list) {
  std::uint64_t n = 0;
  take(bytes, cursor, &n, 1);
  list.resize(n);
  take(bytes, cursor, list.data(), list.size());
}

void pack(const EvalRow& row, std::vector<std::byte>& bytes) {
  append(bytes, &row.sample, 1);
  for (const double x :
       {row.label, row.prediction, row.loss_sum, row.loss_weight}) {
    append(bytes, &x, 1);
  }
  append_list(bytes, row.figures);
}

void unpack(const std::vector<std::byte>& bytes, std::size_t& cursor,
            EvalRow& row) {
  take(bytes, cursor, &row.sample, 1);
  for (double* x :
       {&row.label, &row.prediction, &row.loss_sum, &row.loss_weight}) {
    take(bytes, cursor, x, 1);
  }
  take_list(bytes, cursor, row.figures);
}

void pack(const Prediction& p, std::vector<std::byte>& bytes) {
  append(bytes, &p.sample, 1);
  append(bytes, &p.value, 1);
  append_list(bytes, p.scores);
  const bool text = p.tokens.has_value();
  append(bytes, &text, 1);
  if (text) append_list(bytes, *p.tokens);
}

void unpack(const std::vector<std::byte>& bytes, std::size_t& cursor,
            Prediction& p) {
  take(bytes, cursor, &p.sample, 1);
  take(bytes, cursor, &p.value, 1);
  take_list(bytes, cursor, p.scores);
  bool text = false;
  take(bytes, cursor, &text, 1);
  if (text) take_list(bytes, cursor, p.tokens.emplace());
}

void pack(const Answered& a, std::vector<std::byte>& bytes) {
  pack(a.row, bytes);
  pack(a.prediction, bytes);
}

void unpack(const std::vector<std::byte>& bytes, std::size_t& cursor,
            Answered& a) {
  unpack(bytes, cursor, a.row);
  unpack(bytes, cursor, a.prediction);
}

// Runs `compute(in, first, ctx)` on this rank's batches, `first` the place of
// the first sample, then gathers the rows.
template <class Row, class Compute>
std::vector<Row> over_batches(Communicator& comm, Backbone& backbone,
                              Task& task, const ShardFolder& folder,
                              const EvalOptions& options, Compute compute) {
  const Patience keep_timeout(comm, 0);
  const Deal deal(folder, options);
  const auto begin = Clock::now();
  const auto mine = together(comm, [&] {
    const at::NoGradGuard no_grad;
    std::vector<std::byte> bytes;
    for (std::int64_t b = comm.rank(); b < deal.batches; b += comm.size()) {
      const auto samples = folder.read(deal.begin(b), deal.count(b));
      const BackboneInput in = task.collate(samples, backbone.config());
      ForwardContext ctx;
      ctx.tasks = in.tasks;
      const std::vector<Row> rows = compute(in, deal.begin(b), ctx);
      THINWIRE_ASSERT(static_cast<std::int64_t>(rows.size()) == deal.count(b),
                      "{} rows for {} samples", rows.size(), deal.count(b));
      for (const Row& row : rows) pack(row, bytes);
      if (options.progress) {
        options.progress(std::min(deal.samples, deal.begin(b + comm.size())),
                         deal.samples);
      }
    }
    // The slowest rank may need a multiple of this one's time.
    comm.set_default_timeout_seconds(comm.default_timeout_seconds() +
                                     4 * seconds_since(begin));
    return bytes;
  });
  const auto all = comm.all_gather_v(mine, {.tag = "eval rows"});

  std::vector<std::size_t> cursor(all.size(), 0);
  std::vector<Row> rows;
  rows.reserve(static_cast<std::size_t>(deal.samples));
  for (std::int64_t b = 0; b < deal.batches; ++b) {
    const auto r = static_cast<std::size_t>(b % comm.size());
    for (std::int64_t i = 0; i < deal.count(b); ++i) {
      unpack(all[r], cursor[r], rows.emplace_back());
    }
  }
  return rows;
}

}  // namespace

EvalRecord record_of(const Task& task, std::span<const EvalRow> rows,
                     double seconds) {
  EvalRecord record;
  record.metrics = task.metrics(rows);
  record.samples = std::ssize(rows);
  record.seconds = seconds;
  return record;
}

EvalRecord evaluate(Communicator& comm, Backbone& backbone, Task& task,
                    const ShardFolder& folder, const EvalOptions& options) {
  const auto begin = Clock::now();
  std::optional<Texts> texts;
  const std::vector<EvalRow> rows = over_batches<EvalRow>(
      comm, backbone, task, folder, options,
      [&](const BackboneInput& in, std::int64_t first,
          const ForwardContext& ctx) {
        auto out = task.evaluate(backbone, in, ctx);
        if (task.judges_texts()) {
          if (!texts) texts.emplace(folder);
          texts->judge(task, task.predict(backbone, in, ctx), first, out);
        }
        return out;
      });
  return record_of(task, rows, seconds_since(begin));
}

std::vector<Prediction> predict(Communicator& comm, Backbone& backbone,
                                Task& task, const ShardFolder& folder,
                                const EvalOptions& options) {
  return over_batches<Prediction>(
      comm, backbone, task, folder, options,
      [&](const BackboneInput& in, std::int64_t, const ForwardContext& ctx) {
        return task.predict(backbone, in, ctx);
      });
}

std::vector<Answered> evaluate_and_predict(Communicator& comm,
                                           Backbone& backbone, Task& task,
                                           const ShardFolder& folder,
                                           const EvalOptions& options) {
  std::optional<Texts> texts;
  return over_batches<Answered>(
      comm, backbone, task, folder, options,
      [&](const BackboneInput& in, std::int64_t first,
          const ForwardContext& ctx) {
        auto rows = task.evaluate(backbone, in, ctx);
        auto predictions = task.predict(backbone, in, ctx);
        if (task.judges_texts()) {
          if (!texts) texts.emplace(folder);
          texts->judge(task, predictions, first, rows);
        }
        std::vector<Answered> out;
        for (std::size_t i = 0; i < rows.size(); ++i) {
          out.push_back({std::move(rows[i]), std::move(predictions[i])});
        }
        return out;
      });
}

}  // namespace thinwire
