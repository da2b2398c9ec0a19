# syntax=docker/dockerfile:1
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags="-s -w" -o /out/rebound ./cmd/rebound

FROM gcr.io/distroless/static-debian12:nonroot
COPY --from=build /out/rebound /rebound
# Inside a container the listeners must be reachable from outside it.
ENV LISTEN_ADDR=0.0.0.0:8080 ADMIN_ADDR=0.0.0.0:8081
EXPOSE 8080 8081
USER nonroot
ENTRYPOINT ["/rebound"]
CMD ["serve"]
