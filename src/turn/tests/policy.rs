//! The peer policy against a reference that is too simple to be wrong, around the edges of every
//! special range and in every form of an address.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::bench::{Bench, options};
use crate::net::Prefix;
use crate::turn::policy::Policy;
use crate::turn::{DiscoveryPair, Options, RelayAddress};

proptest! {
    // Each is quick, and few of them meet an address and a list that matter to one another.
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn the_policy_agrees_with_a_naive_reference(
        (spot, allow, deny, hosts, [relay, discovery]) in spots().prop_flat_map(|spot| {
            let list = || prop::collection::vec(prefixes(spot), 0..4);
            let hosts = prop::collection::vec(prop_oneof![Just(spot), spots()], 0..3);
            let pairs = [pairs(spot), pairs(spot)];
            (Just(spot), list(), list(), hosts, pairs)
        }),
    ) {
        let mut options = options();
        // The configuration has no address twice.
        let known = |ip| options.relay_addresses.iter().any(|r| [r.public, r.local].contains(&ip));
        let more = relay.filter(|more| !known(more.public) && !known(more.local));
        options.relay_addresses.extend(more);
        options.nat_discovery.pairs.extend(discovery.map(|second| DiscoveryPair {
            addresses: [options.relay_addresses[0], second],
            ports: [3478, 3479],
        }));
        options.allow_peers = allow;
        options.deny_peers = deny;
        options.host_addresses = hosts;
        let policy = Policy::new(&options);
        for peer in encodings(spot) {
            let judged = policy.judge(peer);
            prop_assert_eq!(
                judged.is_ok(), naive::allows(&options, peer),
                "{} with allow {:?} deny {:?} hosts {:?} relay {:?} discovery {:?}: {:?}",
                peer, options.allow_peers, options.deny_peers, options.host_addresses,
                options.relay_addresses, options.nat_discovery.pairs, judged
            );
            if let Ok(canonical) = judged {
                prop_assert_eq!(canonical.ip, peer);
                prop_assert_eq!(policy.reported(policy.delivery(canonical)), canonical);
                let ours = naive::relay(&options, peer);
                prop_assert_eq!(canonical.relay_address, ours);
                let delivered = ours.map_or(peer, |index| options.relay_addresses[index].local);
                prop_assert_eq!(policy.delivery(canonical), delivered);
            }
        }
    }
}

#[test]
fn the_defaults_agree_with_a_naive_reference_at_every_edge() {
    let options = options();
    let policy = Policy::new(&options);
    let v4 = (0..naive::SPECIAL_V4.len()).map(naive::range_v4).flat_map(|(first, last)| {
        [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(Ipv4Addr::from_bits)
    });
    let v6 = (0..naive::SPECIAL_V6.len()).map(naive::range_v6).flat_map(|(first, last)| {
        [first, last, first.wrapping_sub(1), last.wrapping_add(1)].map(Ipv6Addr::from_bits)
    });
    for peer in v4.map(IpAddr::V4).chain(v6.map(IpAddr::V6)).flat_map(encodings) {
        let judged = policy.judge(peer);
        assert_eq!(judged.is_ok(), naive::allows(&options, peer), "{peer}: {judged:?}");
    }
}

#[test]
fn an_address_that_the_host_gets_later_is_no_peer() {
    let bench = Bench::new(options(), 9);
    let judge = |text: &str| bench.shared.policy.judge(text.parse().expect("an address")).is_ok();
    assert!(judge("2001:470::7") && judge("8.8.8.8"));
    let now = ["2001:470::7", "::ffff:8.8.8.8"].map(|text| text.parse().expect("an address"));
    bench.shared.set_host_addresses(&now);
    assert!(!judge("2001:470::7") && !judge("8.8.8.8"));
    assert!(!judge("64:ff9b::808:808"), "in no other form either");
    bench.shared.set_host_addresses(&[]);
    assert!(judge("2001:470::7") && judge("8.8.8.8"));
}

/// Addresses at and around the edges of every special range, and anywhere else.
fn spots() -> impl Strategy<Value = IpAddr> {
    let v4 = (0..naive::SPECIAL_V4.len(), 0u32..6, any::<u32>()).prop_map(|(index, edge, any)| {
        let (first, last) = naive::range_v4(index);
        let inside = u64::from(first) + u64::from(any) % (u64::from(last - first) + 1);
        let all = [first, last, first.wrapping_sub(1), last.wrapping_add(1), inside as u32, any];
        IpAddr::V4(Ipv4Addr::from_bits(all[edge as usize]))
    });
    let v6 = (0..naive::SPECIAL_V6.len(), 0u32..6, any::<u128>()).prop_map(|(index, edge, any)| {
        let (first, last) = naive::range_v6(index);
        let inside = first + any % (last - first + 1);
        let all = [first, last, first.wrapping_sub(1), last.wrapping_add(1), inside, any];
        IpAddr::V6(Ipv6Addr::from_bits(all[edge as usize]))
    });
    prop_oneof![4 => v4, 2 => v6, 1 => Just(RELAY), 1 => Just(IpAddr::V4(Ipv4Addr::LOCALHOST))]
}

/// The relay address of the tests' options.
const RELAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// Prefixes that often contain `spot`, and often are as long as one another.
fn prefixes(spot: IpAddr) -> impl Strategy<Value = Prefix> {
    let len = prop_oneof![0u8..=128, Just(8), Just(24), Just(128)];
    let ip = prop_oneof![3 => Just(spot), 1 => spots()];
    (ip, len).prop_map(|(ip, len)| Prefix::new(ip, len))
}

/// Perhaps another address of this host, or one behind a NAT; often one half of it is `spot`.
fn pairs(spot: IpAddr) -> impl Strategy<Value = Option<RelayAddress>> {
    let ip = || prop_oneof![Just(spot), spots()];
    let pair = (ip(), ip()).prop_map(|(public, local)| {
        // Both halves are of one family, as the configuration has them.
        let local = if local.is_ipv4() == public.is_ipv4() { local } else { public };
        RelayAddress { public, local }
    });
    prop_oneof![2 => Just(None), 1 => pair.prop_map(Some)]
}

/// Every way to write an IPv4 address as an IPv6 one, and the address itself.
fn encodings(ip: IpAddr) -> Vec<IpAddr> {
    let IpAddr::V4(v4) = ip else { return vec![ip] };
    let low = u128::from(v4.to_bits());
    let global = 0x2606_4700u128 << 96;
    let forms = [
        0xffff << 32 | low,
        0xffff << 48 | low,
        low,
        0x2002u128 << 112 | low << 80 | 1,
        0x0064_ff9bu128 << 96 | low,
        0x0064_ff9b_0001u128 << 80 | low,
        global | 0x0000_5efeu128 << 32 | low,
        global | 0x0200_5efeu128 << 32 | low,
        0x2001_0000u128 << 96 | !low & 0xffff_ffff,
        global | low,
    ];
    let v6 = forms.into_iter().map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
    std::iter::once(ip).chain(v6).collect()
}

/// The policy once more, from texts and ranges, without a prefix table.
mod naive {
    use super::{IpAddr, Ipv4Addr, Ipv6Addr, Options};

    pub(super) const SPECIAL_V4: &[&str] = &[
        "0.0.0.0-0.255.255.255",
        "10.0.0.0-10.255.255.255",
        "100.64.0.0-100.127.255.255",
        "127.0.0.0-127.255.255.255",
        "169.254.0.0-169.254.255.255",
        "172.16.0.0-172.31.255.255",
        "192.0.0.0-192.0.0.255",
        "192.0.2.0-192.0.2.255",
        "192.88.99.0-192.88.99.255",
        "192.168.0.0-192.168.255.255",
        "198.18.0.0-198.19.255.255",
        "198.51.100.0-198.51.100.255",
        "203.0.113.0-203.0.113.255",
        "224.0.0.0-239.255.255.255",
        "240.0.0.0-255.255.255.255",
    ];

    pub(super) const SPECIAL_V6: &[&str] = &[
        "::-64:ff9a:ffff:ffff:ffff:ffff:ffff:ffff",
        "64:ff9b::1:0:0-1fff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::1-::1",
        "100::-100::ffff:ffff:ffff:ffff",
        "2001::-2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:2::-2001:2:0:ffff:ffff:ffff:ffff:ffff",
        "2001:10::-2001:1f:ffff:ffff:ffff:ffff:ffff:ffff",
        "2001:db8::-2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
        "3fff::-3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
        "4000::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "5f00::-5f00:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fc00::-fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fe80::-febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "fec0::-feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "ff00::-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "2002::-2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
        "::ffff:0:0-::ffff:ffff:ffff",
        "::ffff:0:0:0-::ffff:0:ffff:ffff",
        "::-::ffff:ffff",
        "64:ff9b:1::-64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
        "2001::-2001:0:ffff:ffff:ffff:ffff:ffff:ffff",
    ];

    /// How many of `SPECIAL_V6` the operator can open; the others are encodings. Some lie within
    /// others, for the sake of their edges.
    const OPENED_V6: usize = 16;

    pub(super) fn range_v4(index: usize) -> (u32, u32) {
        let (first, last) = SPECIAL_V4[index].split_once('-').expect("a range");
        let bits = |text: &str| text.parse::<Ipv4Addr>().expect("an address").to_bits();
        (bits(first), bits(last))
    }

    pub(super) fn range_v6(index: usize) -> (u128, u128) {
        let (first, last) = SPECIAL_V6[index].split_once('-').expect("a range");
        let bits = |text: &str| text.parse::<Ipv6Addr>().expect("an address").to_bits();
        (bits(first), bits(last))
    }

    fn is_special(ip: IpAddr, from: usize) -> bool {
        match ip {
            IpAddr::V4(v4) => (from..SPECIAL_V4.len())
                .any(|index| (range_v4(index).0..=range_v4(index).1).contains(&v4.to_bits())),
            IpAddr::V6(v6) => {
                let until = if from == 0 { OPENED_V6 } else { SPECIAL_V6.len() };
                let mut ranges = (from..until).map(range_v6);
                ranges.any(|(first, last)| (first..=last).contains(&v6.to_bits()))
            }
        }
    }

    fn is_never(ip: IpAddr) -> bool {
        match ip {
            IpAddr::V4(v4) => {
                let octets = v4.octets();
                octets == [0; 4] || octets == [255; 4] || (224..240).contains(&octets[0])
            }
            IpAddr::V6(v6) => v6.octets() == [0; 16] || v6.octets()[0] == 0xff,
        }
    }

    /// The place of the relay address that clients know as `ip`.
    pub(super) fn relay(options: &Options, ip: IpAddr) -> Option<usize> {
        options.relay_addresses.iter().position(|relay| relay.public == ip)
    }

    pub(super) fn allows(options: &Options, peer: IpAddr) -> bool {
        if is_never(peer) {
            return false;
        }
        if relay(options, peer).is_some() {
            return true;
        }
        let IpAddr::V6(v6) = peer else { return table(options, peer) };
        if peer != IpAddr::V6(Ipv6Addr::LOCALHOST) && is_special(peer, OPENED_V6) {
            return false;
        }
        let o = v6.octets();
        let s = v6.segments();
        let inner = if o[..2] == [0x20, 0x02] {
            Some([o[2], o[3], o[4], o[5]])
        } else if s[..6] == [0x64, 0xff9b, 0, 0, 0, 0] || (s[4] & !0x200, s[5]) == (0, 0x5efe) {
            Some([o[12], o[13], o[14], o[15]])
        } else {
            None
        };
        let inner = inner.map(IpAddr::from);
        table(options, peer) && inner.is_none_or(|ip| !is_never(ip) && table(options, ip))
    }

    fn table(options: &Options, ip: IpAddr) -> bool {
        if options.relay_addresses.iter().any(|relay| [relay.public, relay.local].contains(&ip)) {
            return false;
        }
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        let longest = |list: &[crate::net::Prefix]| {
            (0..=bits)
                .rev()
                .find(|&len| list.iter().any(|prefix| prefix.bits() == len && prefix.contains(ip)))
        };
        let (allow, deny) = (longest(&options.allow_peers), longest(&options.deny_peers));
        let discovery = options.nat_discovery.pairs.iter().flat_map(|pair| pair.addresses);
        let is_discovery = discovery.into_iter().any(|address| address.public == ip);
        if ip.is_loopback() || is_discovery || options.host_addresses.contains(&ip) {
            return allow == Some(bits) && deny != Some(bits);
        }
        match (allow, deny) {
            (None, None) => !is_special(ip, 0),
            (Some(allow), Some(deny)) => allow > deny,
            (allow, None) => allow.is_some(),
            (None, Some(_)) => false,
        }
    }
}
