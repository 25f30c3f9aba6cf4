#include "data/decode.h"

#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <sstream>
#include <string_view>

#include "base/error.h"
#include "base/unicode.h"

namespace thinwire {
namespace {

constexpr std::string_view kMetaspace = "\u2581";

// Byte-level BPE writes a byte as itself where Latin-1 prints it, and the
// others, in order, as U+0100, U+0101, …
bool prints(std::uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) ||
         (byte >= 0xAE && byte <= 0xFF);
}

std::string bytes_of(const std::string& token) {
  static const std::vector<std::uint32_t> kOthers = [] {
    std::vector<std::uint32_t> others;
    for (std::uint32_t b = 0; b < 256; ++b) {
      if (!prints(b)) others.push_back(b);
    }
    return others;
  }();
  std::string out;
  for (const std::uint32_t c : code_points(token)) {
    if (c < 256 && prints(c)) {
      out.push_back(static_cast<char>(c));
    } else if (c >= 256 && c - 256 < kOthers.size()) {
      out.push_back(static_cast<char>(kOthers[c - 256]));
    } else {
      return token;  // not of the alphabet: an added token, kept as it is
    }
  }
  return out;
}

bool joins_without_space(std::string_view token) {
  for (const std::string_view start :
       {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"}) {
    if (token.starts_with(start)) return true;
  }
  return false;
}

}  // namespace

TextDecoder::TextDecoder(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) fail<IoError>("{}: cannot open: {}", path, std::strerror(errno));
  std::ostringstream text;
  text << in.rdbuf();
  try {
    const auto table = nlohmann::json::parse(text.str());
    if (table.at("version") != 1) {
      fail<UsageError>("{}: version {}, this program reads 1", path,
                       table.at("version").dump());
    }
    const std::string rule = table.at("decoder");
    if (rule == "wordpiece") {
      rule_ = Rule::kWordpiece;
    } else if (rule == "metaspace") {
      rule_ = Rule::kMetaspace;
    } else if (rule == "byte_level") {
      rule_ = Rule::kByteLevel;
    } else if (rule != "plain") {
      fail<UsageError>(
          "{}: decoder '{}' is unknown; it is one of byte_level, "
          "metaspace, plain, wordpiece",
          path, rule);
    }
    tokens_ = table.at("tokens").get<std::vector<std::string>>();
    special_.resize(tokens_.size());
    for (const auto& id : table.at("special")) {
      const auto i = id.get<std::int64_t>();
      if (i < 0 || i >= vocab_size()) {
        fail<UsageError>("{}: special id {} of {} tokens", path, i,
                         tokens_.size());
      }
      special_[static_cast<std::size_t>(i)] = true;
    }
  } catch (const nlohmann::json::exception& e) {
    fail<IoError>("{}: not a decode table: {}", path, e.what());
  }
  if (rule_ == Rule::kByteLevel) {
    for (std::string& token : tokens_) token = bytes_of(token);
  }
}

std::string TextDecoder::text(std::span<const std::int32_t> ids) const {
  std::string out;
  bool first = true;
  for (const std::int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || special_[static_cast<std::size_t>(id)])
      continue;
    std::string_view token = tokens_[static_cast<std::size_t>(id)];
    switch (rule_) {
      case Rule::kByteLevel:
        out += token;
        break;
      case Rule::kMetaspace:
        if (first && token.starts_with(kMetaspace)) {
          token.remove_prefix(kMetaspace.size());
        }
        for (std::size_t at; !token.empty();
             token.remove_prefix(at + kMetaspace.size())) {
          at = token.find(kMetaspace);
          out += token.substr(0, at);
          if (at == std::string_view::npos) break;
          out += ' ';
        }
        break;
      case Rule::kWordpiece:
        if (!first && token.starts_with("##")) {
          token.remove_prefix(2);
        } else if (!first && !joins_without_space(token)) {
          out += ' ';
        }
        out += token;
        break;
      case Rule::kPlain:
        if (!first) out += ' ';
        out += token;
        break;
    }
    first = false;
  }
  return out;
}

}  // namespace thinwire
