//! A hash table whose copies share what did not change: 1,024 immutable shards in 32 groups, chosen by high hash bits.
//!
//! A change copies its shard (some 60 entries for 60,000 names), its group and the root: 64 pointers. One flat map costs
//! milliseconds for the same change; a flat list of 1,024 shards touches 1,024 reference counts.

use std::sync::Arc;

/// Groups in the root and shards in a group.
const WIDTH: usize = 32;
/// Bits of the hash that choose one of `WIDTH`.
const WIDTH_BITS: u32 = WIDTH.trailing_zeros();

type Shard<K, V> = Arc<[Entry<K, V>]>;
type Group<K, V> = Arc<[Shard<K, V>; WIDTH]>;

/// A table of `K` to `V` by a hash that the caller computes.
#[derive(Debug, Clone)]
pub(crate) struct Shards<K, V> {
    groups: Arc<[Group<K, V>; WIDTH]>,
}

/// Sorted by hash within its shard.
#[derive(Debug, Clone)]
struct Entry<K, V> {
    hash: u64,
    key: K,
    value: V,
}

impl<K: Clone + Eq, V: Clone> Shards<K, V> {
    /// Returns an empty table.
    pub(crate) fn new() -> Self {
        let shard: Shard<K, V> = Arc::new([]);
        let group: Group<K, V> = Arc::new(std::array::from_fn(|_| shard.clone()));
        Self { groups: Arc::new(std::array::from_fn(|_| group.clone())) }
    }

    /// Returns the value whose key has this hash and satisfies `is`; about 20 ns when the shard is in the cache.
    pub(crate) fn find(&self, hash: u64, is: impl Fn(&K) -> bool) -> Option<&V> {
        let (group, shard) = place(hash);
        let shard = self.groups.get(group)?.get(shard)?;
        let same = shard.get(first(shard, hash)..)?.iter().take_while(|entry| entry.hash == hash);
        same.into_iter().find(|entry| is(&entry.key)).map(|entry| &entry.value)
    }

    /// Carries out edits in their order per key: `change` gets the value before and returns the one after.
    ///
    /// Each touched shard is copied once, so that a first fill of 10,000 services stays linear.
    pub(crate) fn edit<E>(&mut self, mut edits: Vec<(u64, K, E)>, change: impl Fn(Option<V>, E) -> Option<V>) {
        edits.sort_by_key(|(hash, _, _)| *hash);
        let mut edits = edits.into_iter().peekable();
        while let Some(&(hash, _, _)) = edits.peek() {
            let (group, shard) = place(hash);
            let groups = Arc::make_mut(&mut self.groups);
            let Some(shards) = groups.get_mut(group).map(Arc::make_mut) else { return };
            let Some(cell) = shards.get_mut(shard) else { return };
            let mut entries = cell.to_vec();
            while let Some((hash, key, edit)) = edits.next_if(|(hash, _, _)| place(*hash) == (group, shard)) {
                edit_one(&mut entries, (hash, key), |before| change(before, edit));
            }
            *cell = entries.into();
        }
    }
}

/// Returns where the first entry of a hash is, or would be. Hashes are spread evenly, so the place is guessed from the bits
/// below those that chose the shard, and is then a few entries away: neighbours in the cache, where halving would touch a
/// line for each step.
fn first<K, V>(shard: &[Entry<K, V>], hash: u64) -> usize {
    let part = hash << (2 * WIDTH_BITS);
    let guess = usize::try_from((u128::from(part) * shard.len() as u128) >> 64).unwrap_or(0);
    let is_below = |at: usize| shard.get(at).is_some_and(|entry| entry.hash < hash);
    let mut at = guess;
    while at > 0 && !is_below(at - 1) {
        at -= 1;
    }
    while is_below(at) {
        at += 1;
    }
    at
}

fn edit_one<K: Eq, V>(entries: &mut Vec<Entry<K, V>>, named: (u64, K), change: impl FnOnce(Option<V>) -> Option<V>) {
    let (hash, key) = named;
    let first = entries.partition_point(|entry| entry.hash < hash);
    let found = entries.iter().skip(first).take_while(|e| e.hash == hash).position(|e| e.key == key);
    let Some(offset) = found else {
        if let Some(value) = change(None) {
            entries.insert(first, Entry { hash, key, value });
        }
        return;
    };
    let before = entries.remove(first + offset).value;
    if let Some(value) = change(Some(before)) {
        entries.insert(first + offset, Entry { hash, key, value });
    }
}

/// The highest bits choose the group, the next ones the shard.
fn place(hash: u64) -> (usize, usize) {
    let top = usize::try_from(hash >> (u64::BITS - 2 * WIDTH_BITS)).unwrap_or(0);
    (top / WIDTH, top % WIDTH)
}

#[cfg(test)]
mod tests {
    use super::Shards;
    use crate::rng::Rng;
    use std::collections::HashMap;

    #[test]
    fn behaves_as_a_map_and_old_copies_stay_as_they_were() {
        let mut rng = Rng::from_seed(11);
        let mut table: Shards<u32, u64> = Shards::new();
        let mut expected: HashMap<u32, u64> = HashMap::new();
        // Few distinct hashes: collisions are the rule here. Then all in one shard, at its ends too.
        for round in 0..400u32 {
            let hash = |key: u32| match round / 200 {
                0 => u64::from(key % 7) << 60 | u64::from(key % 3),
                _ => [0, 1, 1 << 53, (1 << 54) - 2, (1 << 54) - 1][key as usize % 5],
            };
            if round == 200 {
                (table, expected) = (Shards::new(), HashMap::new());
            }
            let (old_table, old) = (table.clone(), expected.clone());
            let edits: Vec<(u64, u32, Option<u64>)> = (0..rng.below(20))
                .map(|_| {
                    let key = u32::try_from(rng.below(50)).unwrap();
                    (hash(key), key, (rng.below(3) > 0).then(|| rng.next_u64()))
                })
                .collect();
            for (_, key, value) in &edits {
                match value {
                    Some(value) => expected.insert(*key, *value),
                    None => expected.remove(key),
                };
            }
            table.edit(edits, |_, edit| edit);
            for key in 0..50 {
                assert_eq!(table.find(hash(key), |k| *k == key), expected.get(&key), "round {round}");
                assert_eq!(old_table.find(hash(key), |k| *k == key), old.get(&key), "round {round}");
            }
        }
    }
}
