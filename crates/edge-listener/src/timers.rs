//! What is due when: one time for each of many keys.

use std::{collections::BTreeSet, time::Instant};

/// Due times in order. Each key has at most one, which its owner remembers, because it takes both to take it back.
#[derive(Debug)]
pub(crate) struct Timers<K>(BTreeSet<(Instant, K)>);

impl<K> Default for Timers<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Ord + Copy> Timers<K> {
    pub fn set(&mut self, due: Instant, key: K) {
        self.0.insert((due, key));
    }

    /// Without effect if `key` is not due at `due`.
    pub fn cancel(&mut self, due: Instant, key: K) {
        self.0.remove(&(due, key));
    }

    /// When something is due next.
    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|&(due, _)| due)
    }

    /// The key that is due first, if that is not after `now`. It has no due time any more.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        self.next().filter(|&due| due <= now)?;
        self.pop_first()
    }

    /// The key that is due first, whenever that is.
    pub fn pop_first(&mut self) -> Option<K> {
        self.0.pop_first().map(|(_, key)| key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn due_in_order_and_not_before() {
        let start = tokio::time::Instant::now().into_std();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut timers = Timers::default();
        for (due, key) in [(30, 'c'), (10, 'a'), (20, 'b'), (10, 'd')] {
            timers.set(at(due), key);
        }
        timers.cancel(at(20), 'b');
        timers.cancel(at(99), 'c');
        assert_eq!((timers.next(), timers.pop(at(9))), (Some(at(10)), None));
        assert_eq!([timers.pop(at(10)), timers.pop(at(10)), timers.pop(at(29))], [Some('a'), Some('d'), None]);
        assert_eq!((timers.pop_first(), timers.next()), (Some('c'), None));
    }
}
