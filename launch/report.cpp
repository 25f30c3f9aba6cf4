#include "launch/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "comm/codec.h"
#include "comm/reducer.h"
#include "dist/bucket_plan.h"
#include "dist/declare.h"
#include "dist/options.h"
#include "launch/progress.h"
#include "peft/pruned_weights.h"

namespace thinwire {
namespace {

// Cells are UTF-8; continuation bytes take no column.
std::size_t width(const std::string& cell) {
  return static_cast<std::size_t>(std::ranges::count_if(cell, [](char c) {
    return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
  }));
}

bool numeric(const std::string& cell) {
  return !cell.empty() &&
         (std::isdigit(static_cast<unsigned char>(cell.front())) != 0 ||
          cell == "-");
}

std::string share(std::int64_t part, std::int64_t whole) {
  return fmt::format("{:.3f} %",
                     100.0 * static_cast<double>(part) /
                         static_cast<double>(std::max<std::int64_t>(whole, 1)));
}

std::int64_t file_bytes(const Delta& delta) {
  std::int64_t bytes = delta.size() * 4;
  for (const DeltaEntry& entry : delta.entries()) {
    if (entry.index.defined()) bytes += entry.count * 4;
  }
  for (const auto& [name, tensor] : delta.constants()) bytes += tensor.nbytes();
  return bytes;
}

// Top-k and dense exchanges are for comparison: what they send is not said.
std::string exchange_lines(const Delta& delta, const ExchangeOptions& options) {
  const std::int64_t whole = std::max<std::int64_t>(1, delta.size() * 4);
  const auto buckets =
      plan_buckets(delta, options.codec,
                   options.bucket_bytes > 0 ? options.bucket_bytes : whole, {});
  std::int64_t payload = 0;
  for (const Bucket& b : buckets) payload += encoded_bytes(b.codec, b.count);
  std::string out =
      fmt::format("payload per exchange: {} bytes\n", with_commas(payload));
  if (options.what == ExchangeOptions::What::kDelta) {
    for (const int ranks : {2, 4, 8}) {
      const std::int64_t sent =
          exchange_bytes({.buckets = buckets, .algorithm = options.algorithm},
                         ranks, 0)
              .sent;
      out += fmt::format(
          "  {} ranks: each sends {} bytes {}\n", ranks, with_commas(sent),
          options.local() ? fmt::format("every {} steps", options.sync_every)
                          : "a step");
    }
  }
  return out + fmt::format("delta on disk: {}\n",
                           human_bytes(static_cast<double>(file_bytes(delta))));
}

std::string weight_lines(const Parameters& parameters, const OpenModel& model,
                         const Delta* delta) {
  const MaskedBytes masked =
      delta == nullptr ? MaskedBytes{} : masked_bytes(parameters, *delta);
  const auto line = [&](std::string_view when, std::int64_t shared) {
    const std::int64_t written = std::min(masked.before, shared);
    const std::int64_t own =
        model.sharable_bytes - shared + written + masked.more();
    return fmt::format(
        "weights{}: {} bytes shared by the ranks of a host, {} of each rank's "
        "own\n",
        when, with_commas(shared - written), with_commas(own));
  };
  if (model.shared_bytes == model.sharable_bytes) {
    return line("", model.shared_bytes);
  }
  return line(" with one rank on a host", model.shared_bytes) +
         line(" with several", model.sharable_bytes);
}

std::string task_lines(const OpenRun& run) {
  std::vector<std::int64_t> samples;
  for (const auto& part : run.train->parts()) {
    samples.push_back(part->index().samples);
  }
  if (samples.empty()) return "";
  const auto p = task_probabilities(samples, run.config.train.mixing);
  std::vector<std::vector<std::string>> rows{{"task", "samples", "drawn"}};
  for (std::size_t i = 0; i < p.size(); ++i) {
    rows.push_back({run.config.tasks[i].name, with_commas(samples[i]),
                    fmt::format("{:.2f} %", 100 * p[i])});
  }
  return format_table(rows);
}

// Of a delta that has removed some of the model's numbers.
std::string pruned_line(const Delta& delta) {
  const auto pruned = pruned_bits(delta.constants());
  if (pruned.empty()) return "";
  std::int64_t numbers = 0;
  for (const auto& [target, bits] : pruned) numbers += count_bits(bits);
  return fmt::format("removed from the model: {} numbers of {} tensors\n",
                     with_commas(numbers), pruned.size());
}

}  // namespace

std::string with_commas(std::int64_t number) {
  const std::string digits = fmt::format("{}", number);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    const bool group = (digits.size() - i) % 3 == 0;
    if (i > 0 && group && digits[i - 1] != '-') out.push_back(',');
    out.push_back(digits[i]);
  }
  return out;
}

std::string format_table(const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (std::size_t c = 0; c < row.size(); ++c) {
      widths[c] = std::max(widths[c], width(row[c]));
    }
  }
  std::string out;
  for (const auto& row : rows) {
    std::string line;
    for (std::size_t c = 0; c < row.size(); ++c) {
      const std::string pad(widths[c] - width(row[c]), ' ');
      line += (c > 0 ? "  " : "");
      line += numeric(row[c]) ? pad + row[c] : row[c] + pad;
    }
    out += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return out;
}

std::string describe_delta(const Delta& delta, const ExchangeOptions& options) {
  struct Line {
    std::int64_t entries = 0, numbers = 0, of = 0;
  };
  std::map<std::string, Line> groups;
  for (const DeltaEntry& entry : delta.entries()) {
    const std::string kind =
        std::string(
            entry.head
                ? "head"
                : delta.groups()[static_cast<std::size_t>(entry.group)].name) +
        (entry.kind == EntryKind::kMasked ? ", masked" : "");
    Line& line = groups[kind];
    ++line.entries;
    line.numbers += entry.count;
    std::int64_t whole = 1;
    for (const std::int64_t n : entry.shape) whole *= n;
    line.of += whole;
  }
  std::vector<std::vector<std::string>> rows{
      {"group", "tensors", "trainable", "of"}};
  for (const auto& [name, line] : groups) {
    rows.push_back({name, std::to_string(line.entries),
                    with_commas(line.numbers), with_commas(line.of)});
  }
  return format_table(rows) +
         fmt::format("trainable in all: {}\n", with_commas(delta.trainable())) +
         pruned_line(delta) + exchange_lines(delta, options);
}

std::string describe_config(OpenRun& run) {
  check_options(run.config.train);
  const Delta delta = declare_delta(
      *run.backbone, run.methods,
      {.seed = run.config.train.seed, .step = 0, .scoring = nullptr});
  const std::int64_t all = run.backbone->parameters().count();
  std::string out = describe_model(*run.backbone, run.model, &delta);
  for (const MethodChoice& method : run.config.peft) {
    out += fmt::format("method: {} {}\n", method.id, method.config.dump());
  }
  out += describe_delta(delta, run.config.train.exchange);
  out += fmt::format("share of the model: {}\n", share(delta.trainable(), all));
  if (run.train != nullptr) {
    out += task_lines(run);
    out += fmt::format("steps on one rank: {}\n",
                       with_commas(total_steps(run.config.train,
                                               run.train->index().samples, 1)));
  }
  return out;
}

std::string describe_model(const Backbone& backbone, const OpenModel& model,
                           const Delta* delta) {
  const ModelConfig& c = backbone.config();
  return fmt::format(
      "model: {}, {} layers{}, d {}, {} heads, vocabulary {}\n"
      "numbers: {}\nidentity: {}\n{}",
      c.architecture, c.layers,
      c.decoder_layers > 0 ? fmt::format(" + {}", c.decoder_layers) : "",
      c.d_model, c.heads, with_commas(c.vocab_size),
      with_commas(backbone.parameters().count()), model.identity.hex(),
      weight_lines(backbone.parameters(), model, delta));
}

}  // namespace thinwire
