//! [`Attempts`]: how often somebody may be wrong about a password.
//!
//! Only wrong ones count, in memory, for each replica by itself: guessing costs the catalog nothing, and
//! whoever has the right password is never kept from it by others at other addresses. Each user at each
//! address has a few tries. Where many addresses try one user, each has but one at a time, so the owner's
//! first try counts from wherever it comes. Where one address tries many users, it is refused, but for users
//! whose password it has shown before.
//!
//! Whether the user exists makes no difference. What is remembered is bounded.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;

/// Within which time wrong passwords count.
const WINDOW: Duration = Duration::from_mins(1);
/// Most wrong ones within it, for one user from one address, …
const OF_BOTH: u32 = 10;
/// … for all users from one address, …
const OF_ADDRESS: u32 = 60;
/// … and for one user from all addresses, before each of them has but one at a time.
const OF_USER: u32 = 100;
/// How long an address that has shown the right password is known.
const FAMILIAR: Duration = Duration::from_hours(24);
/// Most users, addresses and pairs of them that are remembered.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(50_000).expect("it is more than 0");

pub(super) struct Attempts {
    /// Names are remembered as hashes that nobody can foresee: they may be long.
    hasher: RandomState,
    seen: Mutex<Seen>,
}

struct Seen {
    of_both: LruCache<Pair, Wrong>,
    of_address: LruCache<IpAddr, Wrong>,
    of_user: LruCache<u64, Wrong>,
    /// When an address last showed the right password.
    familiar: LruCache<Pair, Instant>,
}

/// A user, and the address from which somebody wants to be it.
type Pair = (u64, IpAddr);

/// Wrong passwords, as the moment at which they will be forgotten: each moves it on by its part of the
/// window.
#[derive(Clone, Copy)]
struct Wrong {
    forgotten_at: Instant,
}

impl Attempts {
    pub fn new() -> Self {
        let seen = Seen {
            of_both: LruCache::new(CAPACITY),
            of_address: LruCache::new(CAPACITY),
            of_user: LruCache::new(CAPACITY),
            familiar: LruCache::new(CAPACITY),
        };
        Self { hasher: RandomState::new(), seen: Mutex::new(seen) }
    }

    /// Says how long to wait, if there were too many wrong ones; else whether this one is right.
    pub fn judge(
        &self,
        user: &str,
        address: Option<IpAddr>,
        is_right: impl FnOnce() -> bool,
    ) -> Result<bool, Duration> {
        self.judge_at(Instant::now(), user, address, is_right)
    }

    /// Says how long to wait, if there were too many wrong ones.
    pub fn wait(&self, user: &str, address: Option<IpAddr>) -> Option<Duration> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.wait(self.pair(user, address), Instant::now())
    }

    fn judge_at(
        &self,
        now: Instant,
        user: &str,
        address: Option<IpAddr>,
        is_right: impl FnOnce() -> bool,
    ) -> Result<bool, Duration> {
        let pair = self.pair(user, address);
        // Held throughout, so that of many at once no more are judged than one after another would be.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait) = seen.wait(pair, now) {
            return Err(wait);
        }
        let is_right = is_right();
        if is_right {
            seen.familiar.put(pair, now);
        } else {
            count(&mut seen.of_both, pair, OF_BOTH, now);
            count(&mut seen.of_address, pair.1, OF_ADDRESS, now);
            count(&mut seen.of_user, pair.0, OF_USER, now);
        }
        Ok(is_right)
    }

    fn pair(&self, user: &str, address: Option<IpAddr>) -> Pair {
        (self.hasher.hash_one(user), address.map_or(Ipv4Addr::UNSPECIFIED.into(), network))
    }
}

impl Seen {
    fn wait(&mut self, (user, address): Pair, now: Instant) -> Option<Duration> {
        let left = |wrong: Option<&Wrong>| {
            wrong.map_or(Duration::ZERO, |wrong| wrong.forgotten_at.saturating_duration_since(now))
        };
        let is_familiar = self
            .familiar
            .get(&(user, address))
            .is_some_and(|since| now.saturating_duration_since(*since) < FAMILIAR);
        let of_both = left(self.of_both.get(&(user, address)));
        if is_familiar {
            return excess(of_both, OF_BOTH);
        }
        let of_user = left(self.of_user.get(&user));
        let of_both = match excess(of_user, OF_USER) {
            Some(_) => nonzero(of_both),
            None => excess(of_both, OF_BOTH),
        };
        let of_address = excess(left(self.of_address.get(&address)), OF_ADDRESS);
        of_both.max(of_address)
    }
}

fn count<K: std::hash::Hash + Eq>(seen: &mut LruCache<K, Wrong>, key: K, most: u32, now: Instant) {
    let wrong = seen.get_or_insert_mut(key, || Wrong { forgotten_at: now });
    wrong.forgotten_at = wrong.forgotten_at.max(now) + WINDOW / most;
}

/// How long until there is room for another, of so many in a window.
fn excess(left: Duration, most: u32) -> Option<Duration> {
    nonzero((left + WINDOW / most).saturating_sub(WINDOW))
}

fn nonzero(wait: Duration) -> Option<Duration> {
    Some(wait).filter(|wait| !wait.is_zero())
}

/// Who has an IPv6 address has the network around it.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ground {
        attempts: Attempts,
        now: Instant,
    }

    impl Ground {
        fn new() -> Self {
            Self { attempts: Attempts::new(), now: Instant::now() }
        }

        fn try_it(&self, user: &str, address: &str, is_right: bool) -> Result<bool, Duration> {
            let address = address.parse().unwrap();
            self.attempts.judge_at(self.now, user, Some(address), || is_right)
        }

        /// How many wrong ones are judged before one is refused.
        fn guess(&self, user: &str, address: &str) -> usize {
            (0..1000).take_while(|_| self.try_it(user, address, false).is_ok()).count()
        }
    }

    #[test]
    fn who_is_wrong_too_often_waits_and_nobody_else_does() {
        let mut ground = Ground::new();

        assert_eq!(ground.guess("acme", "192.0.2.1"), 10);
        assert!(ground.try_it("acme", "192.0.2.1", true).is_err(), "guessing has to end");
        assert_eq!(ground.try_it("acme", "192.0.2.2", true), Ok(true));
        assert_eq!(ground.try_it("globex", "192.0.2.1", true), Ok(true));
        let wait = ground.try_it("acme", "192.0.2.1", true).unwrap_err();
        ground.now += wait;
        assert_eq!(ground.try_it("acme", "192.0.2.1", true), Ok(true));
    }

    #[test]
    fn right_ones_cost_nothing() {
        let ground = Ground::new();
        for _ in 0..1000 {
            assert_eq!(ground.try_it("acme", "192.0.2.1", true), Ok(true));
        }
        assert_eq!(ground.guess("acme", "192.0.2.1"), 10);
    }

    #[test]
    fn an_owner_gets_in_however_many_addresses_guess() {
        let ground = Ground::new();
        assert_eq!(ground.try_it("acme", "198.51.100.1", true), Ok(true));
        let judged: usize =
            (0..100).map(|number| ground.guess("acme", &format!("192.0.2.{number}"))).sum();

        assert_eq!(judged, 100 + 90, "ten each while nobody noticed, then one each");
        assert_eq!(ground.try_it("acme", "198.51.100.1", true), Ok(true));
        assert_eq!(ground.try_it("acme", "198.51.100.2", true), Ok(true), "wherever it comes from");
        assert_eq!(ground.try_it("globex", "192.0.2.7", true), Ok(true));
    }

    #[test]
    fn an_address_that_tries_everybody_is_refused_but_for_those_it_has_shown() {
        let ground = Ground::new();
        assert_eq!(ground.try_it("acme", "192.0.2.1", true), Ok(true));
        let users = (0..100).map(|number| format!("user{number}"));
        let judged: usize = users.map(|user| ground.guess(&user, "192.0.2.1")).sum();

        assert_eq!(judged, 60);
        assert!(ground.try_it("globex", "192.0.2.1", true).is_err());
        assert_eq!(ground.try_it("acme", "192.0.2.1", true), Ok(true));
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let ground = Ground::new();

        assert_eq!(ground.guess("acme", "2001:db8::1"), 10);
        assert_eq!(ground.guess("acme", "2001:db8::2"), 0);
        assert_eq!(ground.guess("acme", "2001:db8:0:1::1"), 10);
    }
}
