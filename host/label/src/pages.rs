//! The server: the page, its script, pictures by their number, and clicks.
//!
//! Listens on 127.0.0.1 alone. No path from a request ever reaches the disk: pictures go by their place in a table.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::guard::{Guard, guard};
use crate::show::{Decode, Shop, Shown};
use crate::{Card, Click, Desk, Done, LabelError, Overview, Verdict, folder};

/// A desk that browsers reach.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    guard: Arc<Guard>,
    app: Arc<App>,
}

/// What all requests share.
#[derive(Debug)]
struct App {
    desk: Mutex<Desk>,
    shop: Shop,
    /// Tells one start from the next, so that no browser keeps a picture under a number that means another by now.
    session: String,
    cookie: String,
}

impl Server {
    /// Takes a port of 127.0.0.1, or a free one for 0, and a new token.
    ///
    /// # Errors
    ///
    /// If the port is taken.
    pub fn bind(desk: Desk, decode: Decode, port: u16) -> Result<Self, LabelError> {
        let io_error = |source| LabelError::Listen { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map_err(io_error)?;
        listener.set_nonblocking(true).map_err(io_error)?;
        let bound = listener.local_addr().map_err(io_error)?.port();
        let guard = Arc::new(Guard::new(random()?, bound));
        let app = App { desk: Mutex::new(desk), shop: Shop::new(decode), session: random()?, cookie: guard.cookie() };
        Ok(Self { listener, guard, app: Arc::new(app) })
    }

    /// Returns the address of the page, token and all.
    pub fn url(&self) -> String {
        self.guard.url()
    }

    /// Serves until `stop` says so; what was acknowledged by then is on the disk.
    ///
    /// # Errors
    ///
    /// If the socket cannot be served.
    pub fn run(self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Result<(), LabelError> {
        let port = self.listener.local_addr().map_or(0, |a| a.port());
        let io_error = |source| LabelError::Listen { port, source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(4).build();
        let runtime = runtime.map_err(io_error)?;
        let served = runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let (stop, app) = (Arc::new(stop), router(self.app, self.guard));
            let stopped = Arc::clone(&stop);
            let until = async move {
                while !stopped() {
                    tokio::time::sleep(POLL).await;
                }
            };
            let serving = tokio::spawn(axum::serve(listener, app).with_graceful_shutdown(until).into_future());
            let mut left = GRACE;
            while !serving.is_finished() && !left.is_zero() {
                tokio::time::sleep(POLL).await;
                // A browser may keep its connection open for as long as it likes.
                left = if stop() { left.saturating_sub(POLL) } else { left };
            }
            if serving.is_finished() { serving.await.unwrap_or_else(|e| Err(std::io::Error::other(e))) } else { Ok(()) }
        });
        runtime.shutdown_timeout(GRACE);
        served.map_err(io_error)
    }
}

fn router(app: Arc<App>, who_may: Arc<Guard>) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/app.css", get(|| async { text("text/css; charset=utf-8", CSS) }))
        .route("/app.js", get(|| async { text("text/javascript; charset=utf-8", JS) }))
        .route("/icon.svg", get(|| async { text("image/svg+xml", ICON) }))
        .route("/picture/{index}", get(large))
        .route("/small/{index}", get(small))
        .route("/api/state", get(state))
        .route("/api/next", get(next))
        .route("/api/card/{index}", get(card))
        .route("/api/label", post(label))
        .route("/api/skip", post(skip))
        .route("/api/undo", post(undo))
        .route("/api/class", post(class))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(who_may, guard))
        .with_state(app)
}

async fn page(State(app): State<Arc<App>>) -> Response {
    let headers = [(header::SET_COOKIE, app.cookie.clone())];
    (headers, text("text/html; charset=utf-8", PAGE)).into_response()
}

fn text(kind: &'static str, body: &'static str) -> Response {
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}

#[derive(Deserialize)]
struct Who {
    who: String,
    #[serde(default)]
    count: usize,
}

#[derive(Serialize)]
struct Whole {
    session: String,
    done: Option<Done>,
    state: Overview,
    next: Vec<Card>,
}

async fn state(State(app): State<Arc<App>>, Query(who): Query<Who>) -> Response {
    answer(app, move |desk| Ok((None, desk.next(&who.who, who.count, now_ms())?, who.who))).await
}

async fn next(State(app): State<Arc<App>>, Query(who): Query<Who>) -> Response {
    work(move || with_desk(&app, |desk| desk.next(&who.who, who.count.max(1), now_ms())).map(Json)).await
}

async fn card(State(app): State<Arc<App>>, Path(index): Path<usize>, Query(who): Query<Who>) -> Response {
    work(move || with_desk(&app, |desk| desk.card(index, &who.who)).map(Json)).await
}

#[derive(Deserialize)]
struct LabelBody {
    #[serde(flatten)]
    click: Click,
    /// None for a picture of no use.
    label: Option<String>,
}

async fn label(State(app): State<Arc<App>>, Json(LabelBody { click, label }): Json<LabelBody>) -> Response {
    let verdict = label.map_or(Verdict::Unusable, Verdict::Label);
    clicked(app, click, move |desk, click| desk.label(click, verdict, now_ms())).await
}

async fn skip(State(app): State<Arc<App>>, Json(click): Json<Click>) -> Response {
    clicked(app, click, |desk, click| desk.skip(click, now_ms())).await
}

async fn undo(State(app): State<Arc<App>>, Json(click): Json<Click>) -> Response {
    clicked(app, click, |desk, click| desk.undo(click, now_ms())).await
}

#[derive(Deserialize)]
struct ClassBody {
    who: String,
    name: String,
}

async fn class(State(app): State<Arc<App>>, Json(body): Json<ClassBody>) -> Response {
    answer(app, move |desk| {
        desk.add_class(&body.name)?;
        Ok((None, desk.next(&body.who, AHEAD, now_ms())?, body.who))
    })
    .await
}

async fn clicked(
    app: Arc<App>,
    click: Click,
    take: impl FnOnce(&mut Desk, &Click) -> Result<Done, LabelError> + Send + 'static,
) -> Response {
    answer(app, move |desk| {
        let done = take(desk, &click)?;
        Ok((Some(done), desk.next(&click.who, AHEAD, now_ms())?, click.who))
    })
    .await
}

/// Answers with how far all is, and what comes next.
async fn answer(
    app: Arc<App>,
    act: impl FnOnce(&mut Desk) -> Result<(Option<Done>, Vec<Card>, String), LabelError> + Send + 'static,
) -> Response {
    work(move || {
        with_desk(&app, |desk| {
            let (done, next, who) = act(desk)?;
            Ok(Json(Whole { session: app.session.clone(), done, state: desk.overview(&who), next }))
        })
    })
    .await
}

async fn large(State(app): State<Arc<App>>, Path(index): Path<usize>) -> Response {
    work(move || {
        let (root, file) = locate(&app, index)?;
        app.shop.large(&file, folder::read(&root, &file)?).map(Sent)
    })
    .await
}

async fn small(State(app): State<Arc<App>>, Path(index): Path<usize>) -> Response {
    work(move || {
        let (root, file) = locate(&app, index)?;
        app.shop.small(index, &file, || folder::read(&root, &file)).map(Sent)
    })
    .await
}

fn locate(app: &App, index: usize) -> Result<(std::path::PathBuf, String), LabelError> {
    with_desk(app, |desk| {
        let pictures = &desk.folder().pictures;
        let found = pictures.get(index).ok_or(LabelError::NoSuchPicture { count: pictures.len(), found: index })?;
        Ok((desk.folder().root().to_owned(), found.file.clone()))
    })
}

/// A picture that a browser may keep as long as the session lasts: its address has the session in it.
struct Sent(Shown);

impl IntoResponse for Sent {
    fn into_response(self) -> Response {
        let headers =
            [(header::CONTENT_TYPE, self.0.kind), (header::CACHE_CONTROL, "private, max-age=3600, immutable")];
        (headers, self.0.bytes).into_response()
    }
}

fn with_desk<T>(app: &App, act: impl FnOnce(&mut Desk) -> Result<T, LabelError>) -> Result<T, LabelError> {
    // After a panic the log is as sound as ever, and what is in memory is changed after it alone.
    let mut desk = app.desk.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    act(&mut desk)
}

/// Does what waits for the disk where it holds nobody up.
async fn work<T: IntoResponse + Send + 'static>(
    act: impl FnOnce() -> Result<T, LabelError> + Send + 'static,
) -> Response {
    let outcome = tokio::task::spawn_blocking(act).await;
    match outcome {
        Ok(Ok(done)) => done.into_response(),
        Ok(Err(error)) => refusal(&error),
        Err(_) => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "error": "graft label broke off; start it anew" })))
            .into_response(),
    }
}

fn refusal(error: &LabelError) -> Response {
    let status = match error {
        LabelError::NoSuchPicture { .. } => StatusCode::NOT_FOUND,
        e if e.is_refusal() => StatusCode::UNPROCESSABLE_ENTITY,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let cause = std::error::Error::source(error).map(|c| format!(": {c}")).unwrap_or_default();
    (status, Json(json!({ "error": format!("{error}{cause}") }))).into_response()
}

/// Returns 128 random bits in hex.
fn random() -> Result<String, LabelError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|e| LabelError::Listen { port: 0, source: std::io::Error::other(e.to_string()) })?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const PAGE: &str = include_str!("../web/page.html");
const CSS: &str = include_str!("../web/app.css");
const JS: &str = include_str!("../web/app.js");
const ICON: &str = include_str!("../web/icon.svg");
/// Cards that the page gets ahead: one to look at, three to fetch.
const AHEAD: usize = 4;
/// Longest body of a request, in bytes.
const MAX_BODY: usize = 16 << 10;
/// Between two looks at whether to stop.
const POLL: Duration = Duration::from_millis(50);
/// What requests in progress get when it is time to stop.
const GRACE: Duration = Duration::from_secs(2);
