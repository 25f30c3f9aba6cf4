// Agreement between ranks, above any communicator.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "comm/communicator.h"

namespace thinwire {
namespace {

std::vector<std::string> gather_texts(Communicator& comm, std::string_view text,
                                      std::string_view tag) {
  const auto all = comm.all_gather_v(
      std::as_bytes(std::span(text.data(), text.size())), {.tag = tag});
  std::vector<std::string> texts;
  for (const auto& bytes : all) {
    texts.emplace_back(reinterpret_cast<const char*>(bytes.data()),
                       bytes.size());
  }
  return texts;
}

std::string rank_list(const std::vector<int>& ranks) {
  return fmt::format("{} {}", ranks.size() == 1 ? "rank" : "ranks",
                     fmt::join(ranks, ", "));
}

std::string shorten(const std::string& text) {
  constexpr std::size_t kLongest = 200;
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "…";
}

}  // namespace

void agree(Communicator& comm, std::string_view what, std::string_view value) {
  const auto texts = gather_texts(comm, value, what);
  std::map<std::string, std::vector<int>> holders;
  for (int r = 0; r < comm.size(); ++r) {
    holders[texts[static_cast<std::size_t>(r)]].push_back(r);
  }
  if (holders.size() == 1) return;
  await_others_before_throw(comm);
  // Most ranks hold the majority's value; among equals rank 0's, or the
  // lowest rank's.
  const auto majority =
      std::ranges::max_element(holders, [](const auto& a, const auto& b) {
        return a.second.size() != b.second.size()
                   ? a.second.size() < b.second.size()
                   : a.second.front() > b.second.front();
      });
  std::string others;
  for (auto it = holders.begin(); it != holders.end(); ++it) {
    if (it == majority) continue;
    others += fmt::format("{}{} with '{}'", others.empty() ? "" : "; ",
                          rank_list(it->second), shorten(it->first));
  }
  fail<CommError>(
      "{} differs between ranks: {}, where {} of {} ranks have '{}'", what,
      others, majority->second.size(), comm.size(), shorten(majority->first));
}

void agree_ok(Communicator& comm, std::string_view error) {
  const auto texts = gather_texts(comm, error, "agree_ok");
  std::vector<int> failed;
  for (int r = 0; r < comm.size(); ++r) {
    if (!texts[static_cast<std::size_t>(r)].empty()) failed.push_back(r);
  }
  if (failed.empty()) return;
  await_others_before_throw(comm);
  const auto& first = texts[static_cast<std::size_t>(failed.front())];
  if (comm.size() == 1) throw UsageError(first);
  fail<UsageError>("[{}] {}", rank_list(failed), first);
}

void await_others_before_throw(Communicator& comm) noexcept {
  try {
    comm.barrier({.tag = "errors"});
  } catch (const std::exception&) {  // what the caller throws says more
  }
}

}  // namespace thinwire
