//! Large messages and large results: they stream through, and the proxy's memory does not grow with them.

use sidepool_tests::pooler::Pooler;
use sidepool_tests::postgres::wire::first_error;
use sidepool_tests::postgres::{Cluster, Wire, frame, tags};
use sidepool_tests::settings::Settings;
use sidepool_tests::wait;
use tokio::io::AsyncReadExt as _;

const MIB: usize = 1 << 20;

/// Reads `total` bytes and forgets them.
async fn swallow(wire: &mut Wire, total: usize) {
    let mut buffer = vec![0; MIB];
    let mut left = total;
    while left > 0 {
        let room = buffer.len().min(left);
        let read = wait::soon("more rows", wire.stream().read(&mut buffer[..room])).await.expect("a live connection");
        assert!(read > 0, "closed with {left} bytes to come");
        left -= read;
    }
}

async fn start() -> (Cluster, Pooler, u64) {
    let cluster = Cluster::start().await;
    let pool = Pooler::start_fast(Settings::postgres(&cluster)).await;
    pool.wire().await.query("SELECT repeat('x', 1000000)").await;
    let peak = pool.process().peak_resident_bytes();
    (cluster, pool, peak)
}

fn assert_lean(pool: &Pooler, before: u64) {
    let grown = pool.process().peak_resident_bytes() - before;
    assert!(grown < 16 << 20, "{grown} bytes more than before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_200_megabytes() {
    let (_cluster, pool, before) = start().await;
    let mut wire = pool.wire().await;
    let size = 200 * MIB;
    wire.send(&frame::query(&format!("SELECT repeat('x', {size})"))).await;
    // RowDescription with the column's name `repeat`, then one DataRow.
    let head = wire.read_exactly(1 + 4 + 2 + "repeat".len() + 1 + 18).await;
    assert_eq!(head[0], b'T');
    let row = wire.read_exactly(1 + 4 + 2 + 4).await;
    assert_eq!((row[0], &row[7..]), (b'D', u32::try_from(size).expect("below 4 GB").to_be_bytes().as_slice()));
    let already = wire.buffered();
    wire.read_exactly(already).await;
    swallow(&mut wire, size - already).await;
    assert_eq!(tags(&wire.until_ready().await), "CZ");
    assert_lean(&pool, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parameter_of_100_megabytes() {
    let (_cluster, pool, before) = start().await;
    let mut wire = pool.wire().await;
    let value = "v".repeat(100 * MIB);
    let request = [frame::parse("", "SELECT length($1::text)"), frame::bind("", "", &[&value]), frame::execute("", 0), frame::sync()];
    let answer = wire.ask(&request.concat()).await;
    assert_eq!(sidepool_tests::postgres::wire::first_column(&answer), [value.len().to_string()]);
    assert_lean(&pool, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_300_megabytes_each_way() {
    let (_cluster, pool, before) = start().await;
    let mut wire = pool.wire().await;
    wire.send(&frame::query("COPY (SELECT repeat('x', 1000) FROM generate_series(1, 300000)) TO STDOUT")).await;
    assert_eq!(wire.read().await.map(|message| message.tag), Some(b'H'));
    let mut lines = 0;
    loop {
        let message = wire.read().await.expect("the copy goes on");
        match message.tag {
            b'd' => lines += 1,
            b'c' => break,
            other => panic!("{:?} in a copy", char::from(other)),
        }
    }
    assert_eq!(lines, 300_000);
    assert_eq!(tags(&wire.until_ready().await), "CZ");
    wire.query("CREATE TABLE big (n text)").await;
    wire.send(&frame::query("COPY big FROM STDIN")).await;
    assert_eq!(wire.read().await.map(|message| message.tag), Some(b'G'));
    let piece = frame::copy_data(format!("{}\n", "y".repeat(9_999)).repeat(100).as_bytes());
    for _ in 0..300 {
        wire.send(&piece).await;
    }
    let done = wire.ask(&frame::copy_done()).await;
    assert_eq!(done[0].text(), "COPY 30000", "{:?}", first_error(&done).and_then(|error| error.field(b'M')));
    assert_lean(&pool, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_slowly_is_not_buffered_for() {
    let (_cluster, pool, before) = start().await;
    let mut lazy = pool.wire().await;
    lazy.send(&frame::query("SELECT repeat('x', 1000) FROM generate_series(1, 200000)")).await;
    lazy.read().await.expect("the first rows come");
    let mut other = pool.wire().await;
    for _ in 0..50 {
        assert_eq!(other.value("SELECT 'not held up'").await, "not held up");
    }
    assert_lean(&pool, before);
    assert!(tags(&lazy.until_ready().await).ends_with("DCZ"));
}
