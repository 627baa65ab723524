//! What the URLs of both protocols have in common: parsing without ever repeating the text, percent-decoding, parameters.

use percent_encoding::percent_decode_str;
use url::Url;

use crate::secret::Secret;

/// What to do about a URL that does not parse: nearly always a password with a special character in it.
const ENCODE: &str = "a password with @ : / ? # or % in it needs these written as %40 %3A %2F %3F %23 %25";

/// A URL taken apart, with everything decoded.
pub(crate) struct Parts {
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: Option<String>,
    pub(crate) port: Option<u16>,
    /// With its leading slash, if it has one.
    pub(crate) path: String,
    pub(crate) fragment: Option<String>,
    pub(crate) parameters: Vec<(String, String)>,
}

/// Takes a URL apart.
pub(crate) fn parse(text: &str) -> Result<Parts, String> {
    const LONGEST: usize = 64 << 10;
    if text.len() > LONGEST {
        return Err("longer than 64 KiB".to_owned());
    }
    let url = Url::parse(text.trim()).map_err(|error| format!("not a URL: {error}; {ENCODE}"))?;
    // A stray @ behind the authority means that the password was cut at a special character: parts of it would pass for a host or a database.
    let behind = [Some(url.path()), url.query(), url.fragment()];
    if behind.into_iter().flatten().any(|part| part.contains('@')) {
        return Err(format!("has an @ behind the host; {ENCODE}"));
    }
    let host = url.host_str().map(|host| host.trim_start_matches('[').trim_end_matches(']')).filter(|host| !host.is_empty());
    Ok(Parts {
        scheme: url.scheme().to_owned(),
        user: some(decode(url.username())?),
        password: url.password().map(decode).transpose()?.and_then(some).map(Secret::new),
        host: host.map(decode).transpose()?,
        port: url.port(),
        path: decode(url.path())?,
        fragment: url.fragment().map(ToOwned::to_owned),
        parameters: parameters(&url)?,
    })
}

/// Parameters that have no effect here, as one note without their values; `None` if there are none.
pub(crate) fn ignored(names: &[String]) -> Option<String> {
    let harmless = |name: &&String| name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
    let shown: Vec<&str> = names.iter().filter(harmless).map(String::as_str).collect();
    match (names.is_empty(), shown.is_empty()) {
        (true, _) => None,
        (false, true) => Some("parameters of the URL that have no meaning here are ignored".to_owned()),
        (false, false) => Some(format!("parameters of the URL that have no meaning here are ignored: {}", shown.join(", "))),
    }
}

/// The text, unless it is empty.
pub(crate) fn some(text: String) -> Option<String> {
    if text.is_empty() { None } else { Some(text) }
}

fn parameters(url: &Url) -> Result<Vec<(String, String)>, String> {
    let pairs = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, String> {
    let bytes = text.as_bytes();
    let broken = bytes.iter().enumerate().any(|(at, byte)| {
        let hex = |offset: usize| bytes.get(at + offset).is_some_and(u8::is_ascii_hexdigit);
        *byte == b'%' && !(hex(1) && hex(2))
    });
    if broken {
        return Err("has a % without two hexadecimal digits after it; a % itself is written %25".to_owned());
    }
    let decoded = percent_decode_str(text).decode_utf8().map_err(|_| "has percent-encoded bytes that are not UTF-8".to_owned())?;
    if decoded.contains('\0') {
        return Err("has an encoded zero byte".to_owned());
    }
    Ok(decoded.into_owned())
}
