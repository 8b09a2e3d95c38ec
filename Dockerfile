# One static binary in an empty image, run as nobody.
#
#   docker build -t weir .
#   docker run --rm -p 8080:8080 -v "$PWD/weir.toml:/etc/weir/weir.toml:ro" weir run --config /etc/weir/weir.toml

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY src src
COPY benches benches
COPY tests tests
COPY config config
# glibc, linked statically: its allocator keeps memory where musl's gives it back to the kernel for each request. The
# explicit target keeps the flag away from build scripts and procedural macros.
ENV RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(rustc -vV | sed -n 's/^host: //p')" \
    && cargo build --locked --profile dist --bin weir --target "$target" \
    && install -D "target/$target/dist/weir" /out/weir \
    && mkdir -p /out/state

FROM scratch
COPY --from=build /out/weir /weir
# Owned by the user below: state (logs of replicas, the admin socket) lives here.
COPY --from=build --chown=65534:65534 /out/state /var/lib/weir
USER 65534:65534
# 8080 HTTP, 8600 DNS, 9600 admin (loopback of the container only).
EXPOSE 8080/tcp 8600/udp 8600/tcp
ENTRYPOINT ["/weir"]
CMD ["run", "--config", "/etc/weir/weir.toml"]
