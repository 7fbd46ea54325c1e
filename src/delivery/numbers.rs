//! A set of record numbers as sorted, disjoint, non-adjacent ranges: what a batch is when its bytes are given back.
//!
//! Not a general range set: only what delivery does with record numbers. Invariant: ranges are never empty, ascend,
//! and between two of them at least one number is missing.

use std::ops::Range;

/// Record numbers in ascending order, kept as ranges.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    ranges: Vec<Range<u64>>,
}

impl Numbers {
    /// All numbers of one range; empty where the range is.
    pub fn range(range: Range<u64>) -> Self {
        Numbers {
            ranges: if range.is_empty() {
                Vec::new()
            } else {
                vec![range]
            },
        }
    }

    /// Adds a number behind all that are there; numbers that are not greater are ignored, for the set stays sorted.
    pub fn push(&mut self, number: u64) {
        match self.ranges.last_mut() {
            Some(last) if number < last.end => {}
            Some(last) if number == last.end => last.end += 1,
            _ => self.ranges.push(number..number + 1),
        }
    }

    /// Adds a range that lies behind all that are there.
    pub fn push_range(&mut self, range: Range<u64>) {
        match self.ranges.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ if range.is_empty() => {}
            _ => self.ranges.push(range),
        }
    }

    /// How many ranges.
    pub fn range_count(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// How many numbers.
    pub fn len(&self) -> u64 {
        self.ranges.iter().map(|r| r.end - r.start).sum()
    }

    /// The lowest.
    pub fn first(&self) -> Option<u64> {
        self.ranges.first().map(|r| r.start)
    }

    /// Behind the highest.
    pub fn end(&self) -> Option<u64> {
        self.ranges.last().map(|r| r.end)
    }

    /// Whether `number` is in it.
    pub fn contains(&self, number: u64) -> bool {
        let at = self.ranges.partition_point(|r| r.end <= number);
        self.ranges.get(at).is_some_and(|r| r.start <= number)
    }

    /// The ranges, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.ranges.iter().cloned()
    }

    /// Every number, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.ranges.iter().flat_map(Clone::clone)
    }

    /// Those below `number`, and the rest.
    pub fn split_at(&self, number: u64) -> (Numbers, Numbers) {
        let (mut below, mut rest) = (Numbers::default(), Numbers::default());
        for r in &self.ranges {
            if r.start < number {
                below.ranges.push(r.start..r.end.min(number));
            }
            if r.end > number {
                rest.ranges.push(r.start.max(number)..r.end);
            }
        }
        (below, rest)
    }

    /// The lower and the upper half; the lower one has one more where the count is odd.
    pub fn halves(&self) -> (Numbers, Numbers) {
        let mut left = self.len().div_ceil(2);
        for r in &self.ranges {
            let here = r.end - r.start;
            if left <= here {
                return self.split_at(r.start + left);
            }
            left -= here;
        }
        (self.clone(), Numbers::default())
    }

    /// Those that are in `other` too.
    pub fn and(&self, other: &Numbers) -> Numbers {
        self.without(&self.without(other))
    }

    /// Those of either.
    pub fn with(&self, other: &Numbers) -> Numbers {
        let mut all: Vec<Range<u64>> = self.ranges().chain(other.ranges()).collect();
        all.sort_unstable_by_key(|range| range.start);
        let mut out = Numbers::default();
        all.into_iter().for_each(|range| out.push_range(range));
        out
    }

    /// Those that are not in `other`.
    pub fn without(&self, other: &Numbers) -> Numbers {
        let mut out = Numbers::default();
        let mut cuts = other.ranges.iter().peekable();
        for r in &self.ranges {
            let mut start = r.start;
            while let Some(cut) = cuts.peek() {
                if cut.start >= r.end {
                    break;
                }
                if cut.end > start {
                    if cut.start > start {
                        out.ranges.push(start..cut.start);
                    }
                    start = cut.end;
                }
                if cut.end > r.end {
                    break;
                }
                cuts.next();
            }
            if start < r.end {
                out.ranges.push(start..r.end);
            }
        }
        out
    }
}

/// Any order, duplicates allowed.
impl FromIterator<u64> for Numbers {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut sorted: Vec<u64> = numbers.into_iter().collect();
        sorted.sort_unstable();
        let mut out = Numbers::default();
        for number in sorted {
            out.push(number);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn random(rng: &mut fastrand::Rng) -> (Numbers, BTreeSet<u64>) {
        let set: BTreeSet<u64> = (0..rng.usize(0..30)).map(|_| rng.u64(0..40)).collect();
        (set.iter().copied().collect(), set)
    }

    fn check(numbers: &Numbers, model: &BTreeSet<u64>) {
        assert_eq!(
            numbers.iter().collect::<Vec<_>>(),
            model.iter().copied().collect::<Vec<_>>()
        );
        assert_eq!(numbers.len(), model.len() as u64);
        assert_eq!(numbers.first(), model.first().copied());
        assert_eq!(numbers.end(), model.last().map(|n| n + 1));
        assert!(
            numbers.ranges.windows(2).all(|w| w[0].end < w[1].start),
            "{numbers:?}"
        );
    }

    #[test]
    fn agrees_with_a_plain_set_under_every_operation() {
        for seed in 0..2_000 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (a, model_a) = random(&mut rng);
            let (b, model_b) = random(&mut rng);
            check(&a, &model_a);
            check(
                &a.without(&b),
                &model_a.difference(&model_b).copied().collect(),
            );

            let at = rng.u64(0..42);
            let (below, rest) = a.split_at(at);
            check(&below, &model_a.range(..at).copied().collect());
            check(&rest, &model_a.range(at..).copied().collect());

            let (lower, upper) = a.halves();
            assert_eq!(lower.len(), a.len().div_ceil(2), "seed {seed}");
            assert_eq!(
                lower.iter().chain(upper.iter()).collect::<Vec<_>>(),
                a.iter().collect::<Vec<_>>()
            );
            for n in 0..42 {
                assert_eq!(a.contains(n), model_a.contains(&n));
            }
        }
    }

    #[test]
    fn an_empty_range_is_an_empty_set() {
        assert!(Numbers::range(7..7).is_empty());
        assert_eq!(Numbers::range(7..9).len(), 2);
    }
}
