#include "tasks/vote.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"

namespace thinwire {
namespace {

using ::testing::ElementsAre;

// The likeliest of the probabilities.
Prediction says_class(std::vector<float> scores) {
  Prediction p;
  p.sample = 7;
  p.value =
      static_cast<double>(std::ranges::max_element(scores) - scores.begin());
  p.scores = std::move(scores);
  return p;
}

Prediction writes(std::vector<std::int32_t> tokens, double score) {
  Prediction p;
  p.sample = 7;
  p.value = score;
  p.tokens = std::move(tokens);
  return p;
}

using Members = std::vector<Prediction>;

// Probabilities in quarters and eighths: sums and means are exact.
TEST(VoteOnClasses, MostWinWhateverTheirProbabilities) {
  const Members members{says_class({0, 0, 1}), says_class({0.5, 0.25, 0.25}),
                        says_class({0.5, 0.125, 0.375}),
                        says_class({0, 0.75, 0.25})};
  const Vote v = vote(Answer::kClass, members);
  EXPECT_EQ(v.answer.sample, 7u);
  EXPECT_EQ(v.answer.value, 0);
  EXPECT_EQ(v.votes, 2);
  EXPECT_EQ(v.member, 1u);
  EXPECT_THAT(v.answer.scores, ElementsAre(0.25, 0.28125, 0.46875));
}

TEST(VoteOnClasses, EqualVotesGoToTheHigherSummedProbability) {
  // Classes 0 and 2 have two votes each; what other members give counts too.
  const Members members{
      says_class({0.5, 0.375, 0.125}), says_class({0.25, 0.25, 0.5}),
      says_class({0.5, 0.25, 0.25}), says_class({0.375, 0, 0.625}),
      says_class({0, 0.75, 0.25})};
  EXPECT_EQ(vote(Answer::kClass, members).answer.value, 2);  // 1.75, 1.625
  EXPECT_EQ(vote(Answer::kClass, members).member, 1u);
  const Members sure{says_class({0.375, 0.625}), says_class({0.875, 0.125})};
  EXPECT_EQ(vote(Answer::kClass, sure).answer.value, 0);
}

TEST(VoteOnClasses, WhatIsStillEqualGoesToTheFirst) {
  const Members members{says_class({0.25, 0.75}), says_class({0.75, 0.25})};
  EXPECT_EQ(vote(Answer::kClass, members).answer.value, 1);
  EXPECT_EQ(vote(Answer::kClass, Members{members[1], members[0]}).answer.value,
            0);
}

TEST(VoteOnValues, IsTheMean) {
  const Vote v = vote(Answer::kValue,
                      Members{writes({}, 1), writes({}, 2), writes({}, 6)});
  EXPECT_EQ(v.answer.value, 3);
  EXPECT_EQ(v.votes, 3);
}

TEST(VoteOnTexts, MostWinWhateverTheirScores) {
  const Members members{writes({4}, -0.5), writes({4, 5}, -8), writes({}, -1),
                        writes({4, 5}, -2)};
  const Vote v = vote(Answer::kText, members);
  EXPECT_THAT(v.answer.tokens.value(), ElementsAre(4, 5));
  EXPECT_EQ(v.answer.value, -5);
  EXPECT_EQ(v.member, 1u);
  EXPECT_EQ(v.votes, 2);
}

TEST(VoteOnTexts, EqualVotesGoToTheHigherSummedScore) {
  const Members members{writes({4}, -1), writes({5}, -3), writes({4}, -8),
                        writes({5}, -2), writes({6}, 0)};
  EXPECT_THAT(vote(Answer::kText, members).answer.tokens.value(),
              ElementsAre(5));
  const Members equal{writes({4}, -1), writes({5}, -1)};
  EXPECT_THAT(vote(Answer::kText, equal).answer.tokens.value(), ElementsAre(4));
}

TEST(Vote, OneAloneIsItself) {
  const Vote v = vote(Answer::kLoss, Members{writes({}, 0.3)});
  EXPECT_EQ(v.answer.value, 0.3);
  EXPECT_EQ(v.votes, 1);
  EXPECT_THROW(vote(Answer::kLoss, Members{writes({}, 1), writes({}, 2)}),
               InternalError);
}

TEST(Vote, RowsKeepTheLabelAndTakeTheMeanLoss) {
  const std::vector<EvalRow> rows{{7, 2, 0, 1, 1}, {7, 2, 2, 0.5, 1}};
  const Vote two{says_class({0, 0, 1}), 1, 1};
  const EvalRow row = voted_row(Answer::kClass, two, rows);
  EXPECT_EQ(row.sample, 7u);
  EXPECT_EQ(row.label, 2);
  EXPECT_EQ(row.prediction, 2);
  EXPECT_EQ(row.loss_sum, 0.75);
  EXPECT_EQ(row.loss_weight, 1);
}

TEST(Vote, RowsOfValuesTakeTheirOwnError) {
  const std::vector<EvalRow> rows{{7, 2, 1, 1, 1}, {7, 2, 4, 4, 1}};
  const Vote mean = vote(Answer::kValue, Members{writes({}, 1), writes({}, 4)});
  EXPECT_EQ(voted_row(Answer::kValue, mean, rows).prediction, 2.5);
  EXPECT_EQ(voted_row(Answer::kValue, mean, rows).loss_sum, 0.25);
}

TEST(Vote, RowsOfTextsAreTheWriters) {
  const std::vector<EvalRow> rows{{7, 1, 0, 4, 2, {0.1}}, {7, 1, 1, 2, 2, {1}}};
  const Vote second{writes({5}, -1), 1, 1};
  const EvalRow row = voted_row(Answer::kText, second, rows);
  EXPECT_EQ(row.prediction, 1);
  EXPECT_EQ(row.loss_sum, 3);
  EXPECT_EQ(row.loss_weight, 2);
  EXPECT_THAT(row.figures, ElementsAre(1));
}

}  // namespace
}  // namespace thinwire
