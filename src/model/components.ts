import { EigenvalueDecomposition, Matrix } from 'ml-matrix';

/** Adds the products of the rows X [n, H] to `sums`, XᵀX [H, H] (above the diagonal and on it; the rest stays 0). */
export function addProducts(sums: Float64Array, rows: Float32Array, H: number): void {
  for (let at = 0; at < rows.length; at += H) {
    for (let i = 0; i < H; i++) {
      const value = rows[at + i];
      for (let j = i; j < H; j++) sums[i * H + j] += value * rows[at + j];
    }
  }
}

/**
 * The first `n` principal components of rows X [·, H] about the origin: the eigenvectors of XᵀX with the largest
 * eigenvalues, as the columns of V [H, n], row-major. X V Vᵀ is the best approximation of X of rank n (Eckart and Young
 * 1936), and V Vᵀ keeps inner products as well as n numbers can. X is not centred, as PCA elsewhere does it: without the
 * mean, inner products with a query would be others. In each column the number furthest from 0 is positive, since an
 * eigenvector has no sign of its own.
 * @param sums XᵀX as `addProducts` leaves it
 */
export function principalComponents(sums: Float64Array, H: number, n: number): Float32Array {
  const products = new Matrix(H, H);
  for (let i = 0; i < H; i++) {
    for (let j = i; j < H; j++) {
      products.set(i, j, sums[i * H + j]);
      products.set(j, i, sums[i * H + j]);
    }
  }
  const { eigenvectorMatrix: vectors } = new EigenvalueDecomposition(products, { assumeSymmetric: true });
  const components = new Float32Array(H * n);
  for (let k = 0; k < n; k++) {
    const column = vectors.getColumn(H - 1 - k); // eigenvalues ascend
    const largest = column.reduce((a, b) => (Math.abs(b) > Math.abs(a) ? b : a));
    const sign = largest < 0 ? -1 : 1;
    for (let i = 0; i < H; i++) components[i * n + k] = sign * column[i];
  }
  return components;
}
