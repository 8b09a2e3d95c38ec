//! The order of the records of an answer: random, and by weight where endpoints differ in it.

use crate::rng::Rng;
use crate::table::Service;

/// Whether every answer record went in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    All,
    Part,
}

/// Indices of endpoints, drawn without replacement.
#[derive(Debug)]
pub(crate) struct Order {
    chosen: Vec<usize>,
    /// Sort keys of weighted draws.
    keyed: Vec<(f64, usize)>,
    most: usize,
    weighted: bool,
    rng: Rng,
}

impl Order {
    /// Returns an empty one.
    pub(crate) fn new(rng: Rng) -> Self {
        Self { chosen: Vec::new(), keyed: Vec::new(), most: usize::MAX, weighted: false, rng }
    }

    /// Begins anew; at most `most` are drawn.
    pub(crate) fn clear(&mut self, most: Option<u32>) {
        self.chosen.clear();
        self.weighted = false;
        self.most = most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
    }

    /// Adds what may be drawn.
    pub(crate) fn extend(&mut self, indices: impl IntoIterator<Item = usize>) {
        self.chosen.extend(indices);
    }

    /// Orders by weight where `differ`: the share of an endpoint as first record, and in answers that hold only some, is its
    /// share of the weights (Efraimidis and Spirakis: ascending -ln(u)/w).
    pub(crate) fn weigh(&mut self, service: &Service, differ: bool) {
        if !differ || self.chosen.len() < 2 {
            return;
        }
        let Self { chosen, keyed, rng, .. } = self;
        keyed.clear();
        keyed.extend(chosen.iter().map(|&index| {
            let weight = service.candidates.get(index).map_or(1, |candidate| candidate.weight.max(1));
            (-(1.0 - rng.unit()).ln() / f64::from(weight), index)
        }));
        keyed.sort_unstable_by(|(a, _), (b, _)| a.total_cmp(b));
        chosen.clear();
        chosen.extend(keyed.iter().map(|(_, index)| index));
        self.weighted = true;
    }

    /// Brings elements of `size` octets each into random order (Fisher and Yates). One number of 64 bits serves eight draws
    /// below 256: each takes the whole part of a product and leaves its fraction to the next.
    pub(crate) fn shuffle(&mut self, elements: &mut [u8], size: usize) {
        let mut random = 0;
        for (drawn, at) in (1..elements.len() / size.max(1)).rev().enumerate() {
            if drawn % 8 == 0 || at > 255 {
                random = self.rng.next_u64();
            }
            let wide = u128::from(random) * (at as u128 + 1);
            random = wide as u64;
            let other = usize::try_from(wide >> 64).unwrap_or(0);
            if other < at
                && let Some((head, tail)) = elements.split_at_mut_checked(at * size)
                && let (Some(a), Some(b)) = (head.get_mut(other * size..(other + 1) * size), tail.get_mut(..size))
            {
                a.swap_with_slice(b);
            }
        }
    }

    /// Calls `copy` with one after the other until it says that one does not fit.
    pub(crate) fn each(&mut self, mut copy: impl FnMut(usize) -> bool) -> Fit {
        let total = self.chosen.len();
        for at in 0..total.min(self.most) {
            if !self.weighted {
                let other = at + self.rng.below(total - at);
                self.chosen.swap(at, other);
            }
            let chosen = self.chosen.get(at).copied();
            if !chosen.is_some_and(&mut copy) {
                return Fit::Part;
            }
        }
        Fit::All
    }
}

#[cfg(test)]
mod tests {
    use super::{Fit, Order};
    use crate::rng::Rng;
    use crate::table::fixture::{empty, instance, set};

    /// How often each of four endpoints with the weights 1, 2, 3, 4 comes first, and among the first two.
    fn shares(differ: bool) -> ([f64; 4], [f64; 4]) {
        let list: Vec<_> = (1..=4u32)
            .map(|n| {
                let mut one = instance("web", &format!("web-{n}"), &format!("10.0.0.{n}"), &[80]);
                one.weight = n;
                one
            })
            .collect();
        let table = set(&empty(), &[("web", &["http"], &list)]);
        let service = table.services.at(0).unwrap();
        let mut order = Order::new(Rng::from_seed(5));
        let (mut first, mut two, rounds) = ([0.0; 4], [0.0; 4], 20_000);
        for _ in 0..rounds {
            order.clear(Some(2));
            order.extend(0..4);
            order.weigh(service, differ);
            let mut drawn = Vec::new();
            assert_eq!(
                order.each(|index| {
                    drawn.push(index);
                    true
                }),
                Fit::All
            );
            assert!(drawn.len() == 2 && drawn[0] != drawn[1]);
            first[drawn[0]] += 1.0 / f64::from(rounds);
            drawn.iter().for_each(|&index| two[index] += 1.0 / f64::from(rounds));
        }
        (first, two)
    }

    #[test]
    fn the_first_record_and_a_part_of_the_records_follow_the_weights() {
        let near = |found: [f64; 4], wanted: [f64; 4]| {
            assert!(found.iter().zip(wanted).all(|(a, b)| (a - b).abs() < 0.02), "{found:?} {wanted:?}");
        };
        let (first, two) = shares(true);
        near(first, [0.1, 0.2, 0.3, 0.4]);
        // In the first two: w/10 + the sum over the others o of o/10 * w/(10 - o).
        near(two, [0.2345, 0.4413, 0.6083, 0.7159]);
        let (first, two) = shares(false);
        near(first, [0.25; 4]);
        near(two, [0.5; 4]);
    }

    #[test]
    fn each_order_of_a_few_elements_is_as_frequent_as_another_and_many_stay_whole() {
        let mut order = Order::new(Rng::from_seed(5));
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..24_000 {
            let mut elements = *b"aabbccdd";
            order.shuffle(&mut elements, 2);
            *seen.entry(elements).or_insert(0u32) += 1;
        }
        assert_eq!(seen.len(), 24);
        assert!(seen.values().all(|times| (850..1150).contains(times)), "{seen:?}");
        let mut first = [0u32; 20];
        for _ in 0..20_000 {
            let mut elements: Vec<u8> = (0..20).collect();
            order.shuffle(&mut elements, 1);
            first[usize::from(elements[0])] += 1;
            elements.sort_unstable();
            assert!(elements.iter().copied().eq(0..20));
        }
        assert!(first.iter().all(|times| (850..1150).contains(times)), "{first:?}");
        let mut many: Vec<u8> = (0..700u16).flat_map(|n| n.to_be_bytes()).collect();
        order.shuffle(&mut many, 2);
        let mut numbers: Vec<u16> = many.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
        assert!(!numbers.is_sorted());
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..700));
        order.shuffle(&mut [], 2);
    }

    #[test]
    fn stops_where_one_does_not_fit() {
        let mut order = Order::new(Rng::from_seed(5));
        order.clear(None);
        order.extend(0..3);
        assert_eq!(order.each(|_| false), Fit::Part);
    }
}
