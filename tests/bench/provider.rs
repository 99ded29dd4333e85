//! An instant provider: answers every cancel at once, in Midtrans' words.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// What it says to every call.
#[derive(Clone, Copy)]
pub(crate) enum Answer {
    Cancelled,
    /// 429 with an hour to wait: the request stays open.
    Later,
}

/// Starts it on a free port.
pub(crate) async fn start(answer: Answer) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream, answer));
        }
    });
    address
}

async fn serve(mut stream: TcpStream, answer: Answer) {
    drop(stream.set_nodelay(true));
    let mut read = Vec::with_capacity(4096);
    loop {
        while let Some(end) = end_of_head(&read) {
            let order = order_id(&read[..end]);
            read.drain(..end);
            if stream
                .write_all(reply(answer, &order).as_bytes())
                .await
                .is_err()
            {
                return;
            }
        }
        match stream.read_buf(&mut read).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// The calls that it knows have no body.
fn end_of_head(read: &[u8]) -> Option<usize> {
    read.windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| at + 4)
}

fn order_id(head: &[u8]) -> String {
    let line = std::str::from_utf8(head).unwrap_or_default();
    line.split('/')
        .nth(3)
        .or(line.split('/').nth(2))
        .unwrap_or_default()
        .to_owned()
}

fn reply(answer: Answer, order: &str) -> String {
    match answer {
        Answer::Later => {
            "HTTP/1.1 429 Too Many Requests\r\nretry-after: 3600\r\ncontent-length: 0\r\n\r\n"
                .into()
        }
        Answer::Cancelled => {
            let body = format!(
                r#"{{"status_code":"200","status_message":"Success, transaction is canceled","order_id":"{order}","transaction_status":"cancel","gross_amount":"30000.00"}}"#
            );
            format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            )
        }
    }
}
