# An image whose command is realm, with the native engine built in:
#
#   docker build -t realm .
#   docker run --rm realm doctor
#   docker run --rm -v "$PWD:/work" realm demo
#
# See docs/install.md.

ARG NODE=24.22.3-bookworm-slim

FROM node:${NODE} AS build
# Versions are those of the Debian release that the base image pins.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates g++ python3-pip \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/realm
ENV XDG_CACHE_HOME=/opt/cache
COPY . .
# npm installs the engine if it can; the second command fails the build if it could not.
RUN npm ci --omit=dev && node bin/realm engine install && npm cache clean --force

FROM node:${NODE}
# tini forwards signals, so Ctrl-C and "docker stop" end a stage as they do outside a container.
# hadolint ignore=DL3008
RUN apt-get update \
  && apt-get install -y --no-install-recommends ca-certificates tini \
  && rm -rf /var/lib/apt/lists/* \
  && mkdir /work \
  && chown node:node /work
COPY --from=build /opt/cache/realm /opt/cache/realm
COPY --from=build /opt/realm /opt/realm
ENV NODE_ENV=production \
    XDG_CACHE_HOME=/opt/cache \
    HF_HOME=/work/.cache/huggingface
# The user node of the base image, as a number so that a host can check that it is not root.
USER 1000:1000
WORKDIR /work
VOLUME /work
ENTRYPOINT ["tini", "--", "node", "/opt/realm/bin/realm"]
CMD ["--help"]
