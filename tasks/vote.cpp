#include "tasks/vote.h"

#include <algorithm>
#include <tuple>

#include "base/error.h"

namespace thinwire {
namespace {

// Members who say the same.
struct Party {
  std::vector<std::size_t> members;
  double score = 0;
};

template <class Alike>
std::vector<Party> parties_of(std::span<const Prediction> members,
                              const Alike& alike) {
  std::vector<Party> parties;
  for (std::size_t m = 0; m < members.size(); ++m) {
    const auto own = std::ranges::find_if(parties, [&](const Party& party) {
      return alike(members[party.members.front()], members[m]);
    });
    Party& party = own == parties.end() ? parties.emplace_back() : *own;
    party.members.push_back(m);
  }
  return parties;
}

// Of the largest party, the first of the highest score.
const Party& winner(const std::vector<Party>& parties) {
  const auto strength = [](const Party& party) {
    return std::tuple(party.members.size(), party.score);
  };
  const Party* best = &parties.front();
  for (const Party& party : parties) {
    if (strength(party) > strength(*best)) best = &party;
  }
  return *best;
}

Vote vote_for(const Party& party, std::span<const Prediction> members) {
  const std::size_t first = party.members.front();
  return {members[first], first, std::ssize(party.members)};
}

Vote vote_class(std::span<const Prediction> members) {
  const std::size_t classes = members.front().scores.size();
  std::vector<double> sums(classes);
  for (const Prediction& p : members) {
    THINWIRE_ASSERT(p.scores.size() == classes, "{} classes and {}", classes,
                    p.scores.size());
    for (std::size_t c = 0; c < classes; ++c) sums[c] += p.scores[c];
  }
  auto parties =
      parties_of(members, [](const Prediction& a, const Prediction& b) {
        return a.value == b.value;
      });
  for (Party& party : parties) {
    const Prediction& says = members[party.members.front()];
    party.score = sums.at(static_cast<std::size_t>(says.value));
  }
  Vote out = vote_for(winner(parties), members);
  for (std::size_t c = 0; c < classes; ++c) {
    out.answer.scores[c] =
        static_cast<float>(sums[c] / static_cast<double>(members.size()));
  }
  return out;
}

Vote vote_value(std::span<const Prediction> members) {
  Vote out{members.front(), 0, std::ssize(members)};
  double sum = 0;
  for (const Prediction& p : members) sum += p.value;
  out.answer.value = sum / static_cast<double>(members.size());
  return out;
}

Vote vote_text(std::span<const Prediction> members) {
  auto parties =
      parties_of(members, [](const Prediction& a, const Prediction& b) {
        return a.tokens == b.tokens;
      });
  for (Party& party : parties) {
    for (const std::size_t m : party.members) party.score += members[m].value;
    party.score /= static_cast<double>(party.members.size());
  }
  const Party& best = winner(parties);
  Vote out = vote_for(best, members);
  out.answer.value = best.score;
  return out;
}

}  // namespace

Vote vote(Answer answer, std::span<const Prediction> members) {
  THINWIRE_ASSERT(!members.empty(), "a vote of none");
  for (const Prediction& p : members) {
    THINWIRE_ASSERT(p.sample == members.front().sample,
                    "answers to samples {} and {}", members.front().sample,
                    p.sample);
  }
  if (members.size() == 1) return {members.front()};
  switch (answer) {
    case Answer::kClass:
      return vote_class(members);
    case Answer::kValue:
      return vote_value(members);
    case Answer::kText:
      return vote_text(members);
    case Answer::kLoss:
      break;
  }
  fail<InternalError>("{} losses are no answers", members.size());
}

EvalRow voted_row(Answer answer, const Vote& vote,
                  std::span<const EvalRow> members) {
  EvalRow row = members[vote.member];
  row.loss_sum = 0;
  for (const EvalRow& member : members) row.loss_sum += member.loss_sum;
  row.loss_sum /= static_cast<double>(members.size());
  if (answer == Answer::kText) return row;
  row.prediction = vote.answer.value;
  if (answer == Answer::kValue) {
    const double error = row.prediction - row.label;
    row.loss_sum = error * error;
  }
  return row;
}

}  // namespace thinwire
