//! Who may ask: only pages of this very server, in a browser that was given its token.
//!
//! Against what: other sites that a browser has open (foreign `Origin`, `Sec-Fetch-Site`), names that are made to lead
//! here (`Host`), other users of this machine (the token). Not against somebody who can read this user's files.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use std::sync::Arc;

/// What a request must bring.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    token: String,
    port: u16,
}

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turned {
    /// It is for another server.
    Host,
    /// It has no token, or a wrong one.
    Token,
    /// It comes from another site's page.
    Foreign,
}

/// The header by which a script may show the token.
pub(crate) const TOKEN_HEADER: &str = "x-graft-token";

impl Guard {
    pub(crate) fn new(token: String, port: u16) -> Self {
        Self { token, port }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/?token={}", self.port, self.token)
    }

    /// Returns the cookie that takes the token's place after the first visit. Cookies know no ports: its name does.
    pub(crate) fn cookie(&self) -> String {
        format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name(), self.token)
    }

    fn cookie_name(&self) -> String {
        format!("graft-label-{}", self.port)
    }

    /// Decides on a request by its method, path, query and headers.
    pub(crate) fn check(&self, method: &Method, path: &str, query: &str, headers: &HeaderMap) -> Result<(), Turned> {
        let hosts = [format!("127.0.0.1:{}", self.port), format!("localhost:{}", self.port)];
        let is_own = |host: &str| hosts.iter().any(|h| h.eq_ignore_ascii_case(host));
        if !single(headers, "host").is_some_and(is_own) {
            return Err(Turned::Host);
        }
        let is_read = *method == Method::GET || *method == Method::HEAD;
        // The page itself may be reached by a link with the token in it, from wherever that was printed.
        let is_entry = is_read && path == "/";
        let shown = |name: &str| single(headers, name).is_some_and(|t| same(t, &self.token));
        let by_header = shown(TOKEN_HEADER);
        let by_cookie = || {
            let name = self.cookie_name();
            let lists = headers.get_all(header::COOKIE).iter().filter_map(|v| v.to_str().ok());
            let mut pairs = lists.flat_map(|l| l.split(';')).filter_map(|p| p.trim().split_once('='));
            pairs.any(|(n, t)| n == name && same(t, &self.token))
        };
        let by_query = || query.split('&').any(|p| p.strip_prefix("token=").is_some_and(|t| same(t, &self.token)));
        if !(by_header || by_cookie() || is_entry && by_query()) {
            return Err(Turned::Token);
        }
        // Ports make no difference to cookies, so another server of this machine could use them: these two tell.
        let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
        if !is_entry && !matches!(site, None | Some(b"same-origin" | b"none")) {
            return Err(Turned::Foreign);
        }
        let origin = headers.get_all(header::ORIGIN).iter().map(|o| o.to_str().unwrap_or_default());
        let is_foreign = |origin: &str| !origin.strip_prefix("http://").is_some_and(is_own);
        let has_origin = headers.contains_key(header::ORIGIN);
        if origin.into_iter().any(is_foreign) || !(is_read || has_origin || by_header) {
            return Err(Turned::Foreign);
        }
        Ok(())
    }
}

/// Returns a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut all = headers.get_all(name).iter();
    let first = all.next()?.to_str().ok()?;
    all.next().is_none().then_some(first)
}

/// Compares in a time that does not tell where the difference is.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Turns requests away, and tells the browser of all answers what they may not do.
pub(crate) async fn guard(State(guard): State<Arc<Guard>>, request: Request, next: Next) -> Response {
    let uri = request.uri();
    let checked = guard.check(request.method(), uri.path(), uri.query().unwrap_or_default(), request.headers());
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(turned) => turned.into_response(),
    };
    for (name, value) in ANSWERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

impl IntoResponse for Turned {
    fn into_response(self) -> Response {
        let (status, text) = match self {
            Self::Host => (
                StatusCode::MISDIRECTED_REQUEST,
                "expected a request for 127.0.0.1 or localhost with this server's port, found another host\n",
            ),
            Self::Token => (
                StatusCode::UNAUTHORIZED,
                "expected the token that `graft label` printed, found none or an old one; open the whole address that it printed last\n",
            ),
            Self::Foreign => {
                (StatusCode::FORBIDDEN, "expected a request of graft label's own page, found one of another site\n")
            }
        };
        (status, text).into_response()
    }
}

const ANSWERS: [(&str, &str); 7] = [
    (
        "content-security-policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
    ("cache-control", "no-store"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0123456789abcdef0123456789abcdef";

    #[test]
    fn only_own_pages_with_the_token_get_in() {
        let own = ("host", "127.0.0.1:8000");
        let cookie = ("cookie", "a=b; graft-label-8000=0123456789abcdef0123456789abcdef");
        let shown = (TOKEN_HEADER, TOKEN);
        let query = "x=1&token=0123456789abcdef0123456789abcdef";
        type Case<'a> = (&'a str, &'a str, &'a str, &'a [(&'static str, &'static str)], Result<(), Turned>);
        let cases: [Case<'_>; 26] = [
            ("GET", "/", query, &[own], Ok(())),
            ("GET", "/", query, &[own, ("sec-fetch-site", "cross-site")], Ok(())),
            ("GET", "/", "", &[own, cookie], Ok(())),
            ("GET", "/", "", &[("host", "LOCALHOST:8000"), cookie], Ok(())),
            ("GET", "/", "", &[own], Err(Turned::Token)),
            ("GET", "/", "token=0123456789abcdef0123456789abcdee", &[own], Err(Turned::Token)),
            ("GET", "/", "token=", &[own], Err(Turned::Token)),
            ("GET", "/api/state", query, &[own], Err(Turned::Token)),
            ("POST", "/", query, &[own, ("origin", "http://127.0.0.1:8000")], Err(Turned::Token)),
            ("GET", "/api/state", "", &[own, shown], Ok(())),
            (
                "GET",
                "/api/state",
                "",
                &[own, ("cookie", "graft-label-8001=0123456789abcdef0123456789abcdef")],
                Err(Turned::Token),
            ),
            ("GET", "/", query, &[], Err(Turned::Host)),
            ("GET", "/", query, &[("host", "127.0.0.1")], Err(Turned::Host)),
            ("GET", "/", query, &[("host", "127.0.0.1:8001")], Err(Turned::Host)),
            ("GET", "/", query, &[("host", "evil.example:8000")], Err(Turned::Host)),
            ("GET", "/", query, &[("host", "127.0.0.1.evil.example:8000")], Err(Turned::Host)),
            ("GET", "/", query, &[own, ("host", "evil.example")], Err(Turned::Host)),
            ("GET", "/picture/1", "", &[own, cookie, ("sec-fetch-site", "same-origin")], Ok(())),
            ("GET", "/picture/1", "", &[own, cookie, ("sec-fetch-site", "same-site")], Err(Turned::Foreign)),
            ("POST", "/api/label", "", &[own, cookie, ("origin", "http://127.0.0.1:8000")], Ok(())),
            ("POST", "/api/label", "", &[own, cookie], Err(Turned::Foreign)),
            ("POST", "/api/label", "", &[own, shown], Ok(())),
            ("POST", "/api/label", "", &[own, cookie, ("origin", "null")], Err(Turned::Foreign)),
            ("POST", "/api/label", "", &[own, cookie, ("origin", "http://127.0.0.1:8001")], Err(Turned::Foreign)),
            ("POST", "/api/label", "", &[own, cookie, ("origin", "https://127.0.0.1:8000")], Err(Turned::Foreign)),
            ("POST", "/api/label", "", &[own, shown, ("origin", "http://evil.example")], Err(Turned::Foreign)),
        ];
        let guard = Guard::new(TOKEN.into(), 8000);
        for (method, path, query, headers, expected) in cases {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, HeaderValue::from_static(value));
            }
            let found = guard.check(&method.parse().unwrap(), path, query, &map);
            assert_eq!(found, expected, "{method} {path} {query} {headers:?}");
        }
    }
}
