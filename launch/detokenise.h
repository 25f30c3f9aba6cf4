// Token strings back to text, by the marks that tokenizers leave in them.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace thinwire {

// Unigram and BPE pieces ("▁word" starts a word) and WordPiece ("##ing"
// continues one); tokens in <…> or […] are dropped, as are ids outside of the
// vocabulary.
std::string detokenise(std::span<const std::int32_t> ids,
                       const std::vector<std::string>& vocabulary);

}  // namespace thinwire
