//! Who sends a request, when proxies stand in between: `X-Forwarded-For`, `X-Forwarded-Host`.
//!
//! Anybody can write these headers, so they count only from a peer that the operator named. Of the
//! addresses in `X-Forwarded-For`, each proxy adds its peer at the right end. So they are read from
//! there, and only as far as trusted proxies wrote them: what stands further left is the client's own
//! word, and must have no say.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, Request};
use ipnet::{IpNet, Ipv4Net};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// Most proxies in a row.
const MAX_HOPS: usize = 20;
/// What precedes the bits of an IPv4 address in the IPv6 address that is mapped to it.
const MAPPED_BITS: u8 = 96;

/// The address of the client that a request is from: a request extension, there whenever a listener
/// of ours took the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientAddress(pub IpAddr);

/// A request extension: the peer is a trusted proxy, so what it forwards counts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Forwarded;

/// The proxies whose word about a request counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Reads addresses (`192.0.2.7`) and networks (`10.0.0.0/8`).
    ///
    /// # Errors
    ///
    /// Returns the first text that is neither.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, &'a str> {
        let networks: Result<_, _> =
            texts.into_iter().map(|text| network(text).ok_or(text)).collect();
        networks.map(Self)
    }

    /// Writes down who sends a request that came from `peer`.
    pub fn introduce<B>(&self, peer: IpAddr, request: &mut Request<B>) {
        let peer = peer.to_canonical();
        let client = ClientAddress(self.client(peer, request.headers()));
        request.extensions_mut().insert(client);
        if self.trusts(peer) {
            request.extensions_mut().insert(Forwarded);
        }
    }

    /// The nearest address that is no trusted proxy's. Where there is none in reason, the peer.
    fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        if !self.trusts(peer) {
            return peer;
        }
        let mut farthest = peer;
        for (hop, text) in from_the_right(headers).enumerate() {
            let Some(address) = address(text).filter(|_| hop < MAX_HOPS) else { return peer };
            if !self.trusts(address) {
                return address;
            }
            farthest = address;
        }
        // Nobody but proxies: one of them asks on its own behalf.
        farthest
    }

    fn trusts(&self, address: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The elements of every `X-Forwarded-For`, the last one first. They are bytes, since what a client
/// wrote at the left end must not spoil the rest.
fn from_the_right(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers.get_all(FORWARDED_FOR).iter().rev();
    values.flat_map(|value| value.as_bytes().rsplit(|byte| *byte == b','))
}

/// An address as proxies write it: some with a port, and IPv6 then in brackets.
fn address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().ok().or_else(|| text.parse().ok().map(|it: SocketAddr| it.ip()));
    address.map(|address| address.to_canonical())
}

/// A network, or the network of one address. IPv4 in IPv6's clothes is IPv4, as it is in addresses.
fn network(text: &str) -> Option<IpNet> {
    let network: IpNet =
        text.parse().ok().or_else(|| text.parse().ok().map(|it: IpAddr| it.into()))?;
    match network.addr().to_canonical() {
        IpAddr::V4(address) if matches!(network, IpNet::V6(_)) => {
            let bits = network.prefix_len().checked_sub(MAPPED_BITS)?;
            Ipv4Net::new(address, bits).ok().map(IpNet::V4)
        }
        _ => Some(network),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const TRUSTED: [&str; 3] = ["10.0.0.0/8", "192.0.2.7", "2001:db8::/32"];
    const PROXY: &str = "10.0.0.1";

    fn client(peer: &str, values: &[&str]) -> String {
        let mut request = Request::new(());
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            request.headers_mut().append(FORWARDED_FOR, value);
        }
        let proxies = TrustedProxies::parse(TRUSTED).unwrap();
        proxies.introduce(peer.parse().unwrap(), &mut request);
        request.extensions().get::<ClientAddress>().unwrap().0.to_string()
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        assert_eq!(client("203.0.113.9", &["198.51.100.1"]), "203.0.113.9");
        assert_eq!(client(PROXY, &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("::ffff:10.0.0.1", &["198.51.100.1"]), "198.51.100.1");
        assert_eq!(client("2001:db8::1", &["2001:db9::5"]), "2001:db9::5");
        assert_eq!(client(PROXY, &[]), PROXY);
    }

    #[test]
    fn the_client_is_the_nearest_address_that_is_no_proxy() {
        let cases: [(&[&str], &str); 8] = [
            (&["1.1.1.1, 198.51.100.1"], "198.51.100.1"),
            (&["1.1.1.1", "198.51.100.1"], "198.51.100.1"),
            (&["198.51.100.1,192.0.2.7 , 10.1.1.1"], "198.51.100.1"),
            (&["198.51.100.1", "192.0.2.7", "10.1.1.1"], "198.51.100.1"),
            (&["::ffff:198.51.100.1, ::ffff:10.1.1.1"], "198.51.100.1"),
            (&["198.51.100.1:4711"], "198.51.100.1"),
            (&["[2001:db9::5]:443"], "2001:db9::5"),
            (&["10.3.3.3, 10.2.2.2"], "10.3.3.3"),
        ];
        for (values, expected) in cases {
            assert_eq!(client(PROXY, values), expected, "{values:?}");
        }
    }

    #[test]
    fn what_a_client_wrote_in_front_changes_nothing() {
        let many = "1.1.1.1, ".repeat(50);
        for front in ["rubbish, ", "\u{fc}, ", ", , ", "10.0.0.9, ", many.as_str()] {
            assert_eq!(client(PROXY, &[&format!("{front}198.51.100.1")]), "198.51.100.1");
        }
    }

    #[test]
    fn without_a_client_in_reason_it_is_the_peer() {
        let endless = ["10.2.2.2"; 21].join(",");
        for value in ["", "rubbish", "unknown", "198.51.100.1,", "1.2.3", "[10.1.1.1", &endless] {
            assert_eq!(client(PROXY, &[value]), PROXY, "{value}");
        }
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let both = |text| TrustedProxies::parse([text]).unwrap();
        assert_eq!(both("::ffff:10.0.0.0/104"), both("10.0.0.0/8"));
        assert_eq!(both("::ffff:192.0.2.7"), both("192.0.2.7"));
        for bad in ["", "proxy.example", "10.0.0.0/33", "10.0.0", "::ffff:10.0.0.1/64", "10/8"] {
            assert_eq!(TrustedProxies::parse([bad]), Err(bad));
        }
    }

    proptest! {
        #[test]
        fn whoever_is_not_trusted_is_who_they_are(value in "\\PC{0,60}", a in 11_u8..=100) {
            let peer = format!("{a}.1.1.1");
            prop_assert_eq!(client(&peer, &[&value]), peer);
        }

        #[test]
        fn no_front_hides_the_client(front in "[ -~]{0,200}", proxies in 0_usize..19, client_bits: u32) {
            let address = IpAddr::from(client_bits.to_be_bytes());
            prop_assume!(!TrustedProxies::parse(TRUSTED).unwrap().trusts(address));
            let value = format!("{front},{address}{}", ", 10.1.2.3".repeat(proxies));
            prop_assert_eq!(client(PROXY, &[&value]), address.to_string());
        }

        #[test]
        fn no_header_makes_it_panic(bytes in proptest::collection::vec(0x20_u8..=0x7e, 0..120)) {
            let text = String::from_utf8(bytes).unwrap();
            prop_assert!(client(PROXY, &[&text]).parse::<IpAddr>().is_ok());
        }

        #[test]
        fn what_is_no_text_is_no_address(bytes in proptest::collection::vec(0x80_u8..=0xff, 0..80)) {
            let mut headers = HeaderMap::new();
            headers.append(FORWARDED_FOR, HeaderValue::from_bytes(&bytes).unwrap());
            let peer: IpAddr = PROXY.parse().unwrap();
            let proxies = TrustedProxies::parse(TRUSTED).unwrap();
            prop_assert_eq!(proxies.client(peer, &headers), peer);
        }
    }
}
