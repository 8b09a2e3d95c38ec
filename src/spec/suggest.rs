//! "Did you mean": the known word nearest to a mistyped one.

/// Longest word that is compared; longer ones are no slip of a finger.
const MAX_CHARACTERS: usize = 64;

/// Returns the candidate nearest to `word`, when it is near enough to be meant: at most a third of its characters differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written: Vec<char> = word.chars().take(MAX_CHARACTERS + 1).collect();
    if written.len() > MAX_CHARACTERS {
        return None;
    }
    candidates
        .into_iter()
        .map(|candidate| (distance(&written, &candidate.chars().collect::<Vec<_>>()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Edit distance with insertions, deletions, substitutions and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut next = Vec::with_capacity(b.len() + 1);
        next.push(i + 1);
        for (j, y) in b.iter().enumerate() {
            let at = |row: &[usize], j: usize| row.get(j).copied().unwrap_or(usize::MAX / 2);
            let mut best = (at(&row, j) + usize::from(x != y)).min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            let swapped = i > 0 && j > 0 && a.get(i - 1) == Some(y) && b.get(j - 1) == Some(x);
            if swapped {
                best = best.min(at(&before, j - 1) + 1);
            }
            next.push(best);
        }
        before = std::mem::replace(&mut row, next);
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::{distance, nearest};

    fn between(a: &str, b: &str) -> usize {
        distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>())
    }

    #[test]
    fn counts_edits() {
        assert_eq!(
            [between("", "abc"), between("abc", "abc"), between("abc", "abd"), between("abc", "ab")],
            [3, 0, 1, 1]
        );
        assert_eq!([between("polcy", "policy"), between("ploicy", "policy"), between("kitten", "sitting")], [1, 1, 3]);
    }

    #[test]
    fn suggests_only_what_may_be_meant() {
        let known = ["interval", "timeout", "path", "fall"];
        assert_eq!(nearest("intervall", known), Some("interval"));
        assert_eq!(nearest("time_out", known), Some("timeout"));
        assert_eq!(nearest("pathh", known), Some("path"));
        assert_eq!(nearest("retries", known), None);
        assert_eq!(nearest("", known), None);
        assert_eq!(nearest(&"x".repeat(1000), known), None);
    }
}
