//! The address column of `pg_hba.conf`: a network, written with a prefix length or with a mask of its own, or everywhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Which addresses a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Address {
    /// All.
    All,
    /// Those that are in an IPv4 network.
    V4 { network: u32, mask: u32 },
    /// Those that are in an IPv6 network.
    V6 { network: u128, mask: u128 },
}

impl Address {
    /// Whether `address` is one of them. An IPv4 address in IPv6 clothes is an IPv4 address.
    pub(super) fn holds(self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Self::All, _) => true,
            (Self::V4 { network, mask }, IpAddr::V4(address)) => u32::from(address) & mask == network,
            (Self::V6 { network, mask }, IpAddr::V6(address)) => u128::from(address) & mask == network,
            (Self::V4 { .. }, IpAddr::V6(_)) | (Self::V6 { .. }, IpAddr::V4(_)) => false,
        }
    }

    /// Reads `ADDRESS/BITS`; `None` for an address without them.
    pub(super) fn with_bits(text: &str) -> Option<Result<Self, String>> {
        let (address, bits) = text.split_once('/')?;
        let read = || {
            let address: IpAddr = address.parse().map_err(|_| format!("\"{address}\" is not an IP address"))?;
            let most: u32 = if address.is_ipv4() { 32 } else { 128 };
            let wrong = || format!("\"{bits}\" is not a prefix length from 0 to {most}");
            let plain = !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit());
            let bits: u32 = bits.parse().ok().filter(|bits| plain && *bits <= most).ok_or_else(wrong)?;
            Ok(match address {
                IpAddr::V4(address) => Self::v4(address, u32::MAX.checked_shl(32 - bits).unwrap_or(0)),
                IpAddr::V6(address) => Self::v6(address, u128::MAX.checked_shl(128 - bits).unwrap_or(0)),
            })
        };
        Some(read())
    }

    /// Reads an address and its mask, as they stand in two columns.
    pub(super) fn with_mask(address: &str, mask: &str) -> Result<Self, String> {
        let parse = |text: &str| text.parse::<IpAddr>().map_err(|_| format!("\"{text}\" is not an IP address or mask"));
        match (parse(address)?, parse(mask)?) {
            (IpAddr::V4(address), IpAddr::V4(mask)) => Ok(Self::v4(address, u32::from(mask))),
            (IpAddr::V6(address), IpAddr::V6(mask)) => Ok(Self::v6(address, u128::from(mask))),
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
                Err(format!("\"{address}\" and the mask \"{mask}\" are of different families"))
            }
        }
    }

    fn v4(address: Ipv4Addr, mask: u32) -> Self {
        Self::V4 { network: u32::from(address) & mask, mask }
    }

    fn v6(address: Ipv6Addr, mask: u128) -> Self {
        Self::V6 { network: u128::from(address) & mask, mask }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bits(text: &str) -> Address {
        Address::with_bits(text).unwrap().unwrap()
    }

    fn holds(network: Address, address: &str) -> bool {
        network.holds(address.parse().unwrap())
    }

    #[test]
    fn networks_hold_their_addresses() {
        assert!(holds(bits("10.1.2.3/8"), "10.9.9.9") && !holds(bits("10.1.2.3/8"), "11.1.2.3"));
        assert!(holds(bits("10.0.0.1/32"), "10.0.0.1") && !holds(bits("10.0.0.1/32"), "10.0.0.2"));
        assert!(holds(bits("0.0.0.0/0"), "8.8.8.8") && !holds(bits("0.0.0.0/0"), "::1"));
        assert!(holds(bits("::/0"), "fe80::1") && !holds(bits("::/0"), "8.8.8.8"));
        assert!(holds(bits("fe80::/10"), "febf::1") && !holds(bits("fe80::/10"), "fec0::1"));
        assert!(holds(bits("127.0.0.1/32"), "::ffff:127.0.0.1"), "an IPv4 address on a socket for both");
        assert!(holds(Address::All, "::1") && holds(Address::All, "1.1.1.1"));
    }

    #[test]
    fn masks_are_as_good_as_bits() {
        assert_eq!(Address::with_mask("192.168.1.9", "255.255.255.0").unwrap(), bits("192.168.1.0/24"));
        assert_eq!(Address::with_mask("fe80::1", "ffff::").unwrap(), bits("fe80::/16"));
        let odd = Address::with_mask("10.0.5.0", "255.0.255.0").unwrap();
        assert!(holds(odd, "10.77.5.1") && !holds(odd, "10.77.6.1"));
    }

    #[test]
    fn what_is_none_is_named() {
        assert!(Address::with_bits("10.0.0.1").is_none());
        for bad in ["10.0.0.1/33", "10.0.0/8", "::/129", "::/", "::/+8", "host/8", "/8", "1.2.3.4/8/9"] {
            assert!(Address::with_bits(bad).unwrap().is_err(), "{bad}");
        }
        assert!(Address::with_mask("10.0.0.1", "ffff::").is_err());
        assert!(Address::with_mask("10.0.0.1", "md5").is_err());
    }
}
